"""Become the server of an instance: ``launch.py FOLDER``.

It is the verified generation, or the pending one while the switch that tries it is alive. That process has a FIFO in
the generation's folder open for reading, as nobody else may, and the kernel closes it however the process ends; only
until then can the FIFO be opened for writing, as the server's user may. llama-server reads options from variables named
LLAMA_…, and whoever ran the deployment may have some: the instance alone decides.

Nothing is written, so that a full disk keeps no server from starting, and nothing that the server's user may write is
read: ``python -I`` runs this.
"""

import json
import os
import pwd
import sys
import time

GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
WSL_DEVICE = "/dev/dxg"  # by which Windows lends its GPUs: the others never appear there
GPU_SECONDS = 60


def chosen(folder: str) -> str:
    """The link to follow."""
    try:
        os.close(os.open(os.path.join(folder, "pending", "tried"), os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nothing is pending, or nobody reads
        return "verified"
    return "pending"


def become(user: str) -> None:
    """Give up root's rights for those of the servers' user. systemd and Docker do that themselves."""
    try:
        account = pwd.getpwnam(user)
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    except (KeyError, OSError) as error:
        sys.exit(f"launch: can't become user {user} ({error}): deploy again, or with llama_server_user: root")


folder = sys.argv[1]
link = chosen(folder)
try:
    with open(os.path.join(folder, link, "instance.json"), encoding="utf-8") as stream:
        instance = json.load(stream)
except FileNotFoundError:
    sys.exit(f"launch: {folder} has nothing that was proven: deploy again")

if instance["runtime"] == "docker":  # a switch of the runtime that was cut off: the container serves
    sys.exit(f"launch: {instance['name']} runs in a container: deploy again")

if instance["release"]["backend"] == "cuda" and instance["uses_gpu"]:
    # CUDA that starts before its device nodes are there would be served by the processor, and nobody would be told.
    deadline = time.monotonic() + GPU_SECONDS
    late = False
    while not os.path.exists(WSL_DEVICE) and (missing := [path for path in GPU_DEVICES if not os.path.exists(path)]):
        late = True
        if time.monotonic() > deadline:
            sys.exit(
                f"launch: the GPU is not there: neither {' and '.join(missing)} nor (WSL) {WSL_DEVICE} appeared within "
                f"{GPU_SECONDS} s"
            )
        time.sleep(0.5)
    if late and instance["runtime"] == "systemd":
        # Which devices a unit may open is settled when it starts, by what the kernel knows then.
        sys.exit("launch: the GPU has appeared; starting over, so that it may be opened")

print(f"launch: process {os.getpid()} is {instance['name']}, {link} generation {instance['id']}", flush=True)
environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
if instance["runtime"] == "supervisor":
    environment["LLAMA_NEXUS_INSTANCE"] = folder  # by which it is found where it outlives supervisord
    user = instance.get("user")
    if user:
        become(user)
        environment |= {"USER": user, "LOGNAME": user, "HOME": "/nonexistent"}
        environment["CUDA_CACHE_PATH"] = os.path.join(folder, "cache")
os.execve(instance["argv"][0], instance["argv"], {**environment, **instance["environment"]})
