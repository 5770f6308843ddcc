"""Programs that a build takes: where they are, and whether they can be installed.

Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import shutil

from ..hostlib.programs import output_of


def find_tool(name: str, tools_path: str | None) -> str | None:
    """The path of a program: in the project's own tools, else on PATH."""
    search = os.pathsep.join(filter(None, [tools_path, os.environ.get("PATH", os.defpath)]))
    return shutil.which(name, path=search)


def find_compiler() -> str | None:
    """The path of a C++ compiler."""
    return next(filter(None, (shutil.which(name) for name in ("c++", "g++", "clang++"))), None)


def may_install() -> bool:
    """True where this user may install packages: root, or sudo that asks for no password."""
    return os.geteuid() == 0 or output_of(["sudo", "-n", "true"]) is not None
