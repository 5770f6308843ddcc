"""Services that keep NVIDIA's driver initialized, or in use. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from ..hostlib import programs, systemd
from ..hostlib.files import write_file
from .errors import DriverError
from .packages import Say, run

DROP_IN = "/etc/systemd/system/nvidia-persistenced.service.d/llama-nexus.conf"
# They have the modules in use.
SERVICES = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm")


def keep_initialized(say: Say) -> None:
    """Have nvidia-persistenced run from boot on. Ubuntu's unit can't be enabled, stops by itself, and has it off."""
    if not systemd.is_pid_1():
        return
    unit = "nvidia-persistenced.service"
    unit_text = run(["systemctl", "cat", unit], ok=(0, 1))
    if "ExecStart=" not in unit_text:
        raise DriverError(f"{unit} is not there, which keeps the driver initialized: install the package that holds it")
    own = unit_text.partition(f"# {DROP_IN}")[0]
    lines = ["[Unit]", "StopWhenUnneeded=no", "[Service]"]
    starts = [line for line in own.splitlines() if line.startswith("ExecStart=/")]
    if any("--no-persistence-mode" in line for line in starts):
        lines += ["ExecStart=", *(line.replace("--no-persistence-mode", "--persistence-mode") for line in starts)]
    modprobe = shutil.which("nvidia-modprobe")
    if modprobe:  # a server in its sandbox can't make the nodes
        lines.append(f"ExecStartPost=-{modprobe} -u -c=0")
    write_file(DROP_IN, "\n".join(lines) + "\n", parents=True)
    run(["systemctl", "daemon-reload"])
    if "[Install]" in own:
        run(["systemctl", "enable", unit])
    else:
        run(["systemctl", "add-wants", "multi-user.target", unit])


def has_persistenced() -> bool:
    """True where the service is there that keeps the driver initialized."""
    places = ("/usr/lib", "/lib", "/etc")
    return any(os.path.exists(f"{place}/systemd/system/nvidia-persistenced.service") for place in places)


@contextlib.contextmanager
def stopped() -> Iterator[None]:
    """Without the services that keep the modules in use; those that ran run again afterwards, whatever happened."""
    ran = [service for service in SERVICES if systemd.is_pid_1() and _is_active(service)]
    for service in ran:
        run(["systemctl", "stop", service])
    try:
        yield
    except BaseException:
        for service in ran:
            with contextlib.suppress(DriverError):  # what happened before is the error to tell
                run(["systemctl", "start", service])
        raise
    for service in ran:
        run(["systemctl", "start", service])


def start_fabric_manager(say: Say) -> None:
    """Have it run, now and from boot on."""
    run(["systemctl", "enable", "--now", "nvidia-fabricmanager"])


def _is_active(service: str) -> bool:
    return programs.run(["systemctl", "is-active", "--quiet", service]).status == 0
