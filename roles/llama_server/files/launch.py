"""Become the server that an instance file describes: ``launch.py INSTANCE.json``.

What it becomes is written beside the file first: the process id, which exec keeps, and the arguments. llama-server
reads options from variables named LLAMA_…, and whoever ran the deployment may have some: the file alone decides.
"""

import json
import os
import sys

with open(sys.argv[1], encoding="utf-8") as stream:
    instance = json.load(stream)
with open(instance["process_file"] + ".new", "w", encoding="utf-8") as stream:
    json.dump({"pid": os.getpid(), "argv": instance["argv"]}, stream)
os.replace(instance["process_file"] + ".new", instance["process_file"])
environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
os.execve(instance["argv"][0], instance["argv"], environment)
