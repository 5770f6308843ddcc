"""HAProxy as a host has it: the program, its version and what it was built with. Python 3.9's standard library only.

path = find()                  # None where there is none
refuse(path)                   # GatewayError where it is too old, or lacks Lua
problem = check(path, cfg)     # None where the configuration is valid
"""

from __future__ import annotations

import os
import re
import shutil

from ..hostlib.programs import ProgramError, run
from .errors import GatewayError

LEAST = (2, 6)
LEAST_FOR = "what the gateway's configuration is written in"
PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # no part of an ordinary user's PATH
VERSION = re.compile(r"HAProxy version (\d+)\.(\d+)\S*")


def find() -> str | None:
    """The program's path; None where it is not installed."""
    return shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def refuse(path: str | None) -> str:
    """The path of a program that will do.

    Raises:
        GatewayError: there is none, it is too old, or it was built without Lua.
    """
    if path is None:
        raise GatewayError(
            "HAProxy is not installed: install the package haproxy, as with apt-get install haproxy, and deploy again"
        )
    said = _said([path, "-vv"])
    version = VERSION.search(said)
    if version is None:
        raise GatewayError(f"{path} does not tell its version: install HAProxy {LEAST[0]}.{LEAST[1]} or newer")
    if (int(version[1]), int(version[2])) < LEAST:
        raise GatewayError(
            f"{version[0]} is too old at {path}: install {LEAST[0]}.{LEAST[1]} or newer, for {LEAST_FOR}"
        )
    if not re.search(r"\+LUA\b|USE_LUA=1", said):
        raise GatewayError(f"{path} was built without Lua, which reads requests: install one with it")
    return path


def check(path: str, configuration: str) -> str | None:
    """The first problem of a configuration file, in one line; None where HAProxy takes it."""
    try:
        done = run([path, "-c", "-f", configuration])
    except ProgramError as error:
        return str(error)
    if done.status == 0:
        return None
    alerts = [line for line in done.output.splitlines() if "[ALERT]" in line]
    return re.sub(r"^\[ALERT\]\s*\(\d+\)\s*:\s*", "", (alerts or done.output.splitlines() or ["no reason given"])[0])


def _said(argv: list[str]) -> str:
    try:
        return run(argv).output
    except ProgramError as error:
        raise GatewayError(str(error)) from error
