"""Become the server that an instance file describes: ``launch.py INSTANCE.json``.

The process id is written beside the file first; it stays the server's, because exec keeps it.
"""

import json
import os
import sys

with open(sys.argv[1], encoding="utf-8") as stream:
    instance = json.load(stream)
with open(instance["pid_file"], "w", encoding="utf-8") as stream:
    stream.write(str(os.getpid()))
os.execv(instance["argv"][0], instance["argv"])
