"""The three supervisors of servers: systemd, supervisor and Docker, behind one contract (base.py)."""
