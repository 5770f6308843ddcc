"""The three things that keep a server running: systemd, supervisor and Docker, behind one contract (base.py)."""
