"""Become the server that an instance file describes: ``launch.py INSTANCE.json``.

The process id is written beside the file first; it stays the server's, because exec keeps it. llama-server reads
options from variables named LLAMA_…, and whoever ran the deployment may have some: the file alone decides.
"""

import json
import os
import sys

with open(sys.argv[1], encoding="utf-8") as stream:
    instance = json.load(stream)
with open(instance["pid_file"] + ".new", "w", encoding="utf-8") as stream:
    stream.write(str(os.getpid()))
os.replace(instance["pid_file"] + ".new", instance["pid_file"])
environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
os.execve(instance["argv"][0], instance["argv"], environment)
