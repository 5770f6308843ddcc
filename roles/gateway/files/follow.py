#!/usr/bin/env python3
"""Runs the follower of a gateway's log: follow.py ROOT KEEP_DAYS. The package gateway lies beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gateway.follower import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
