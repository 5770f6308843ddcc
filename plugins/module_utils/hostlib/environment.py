"""Environment of the project's own processes: a umask, a Python and a home that can't lead them astray.

    begin()              # a module on a host, before anything else
    have_a_home()        # a program on the controller
    have_plain_python()  # before Pythons of the project's own are started

Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import pwd
import re
import tempfile

# What makes another interpreter of one: other packages, warnings as errors, a prompt at its end. The rest of Python's
# variables only say what it caches or traces.
OF_ANOTHER_PYTHON = re.compile(
    "PYTHON(?:PATH|HOME|USERBASE|STARTUP|INSPECT|OPTIMIZE|WARNINGS|PLATLIBDIR|EXECUTABLE|SAFEPATH|NOUSERSITE|CASEOK|"
    "IOENCODING|LEGACYWINDOWSSTDIO|COERCECLOCALE|UTF8|ASYNCIODEBUG|DEVMODE|INTMAXSTRDIGITS|PROFILEIMPORTTIME)|"
    "__PYVENV_LAUNCHER__"
)


def begin() -> None:
    """Begin a module: what it makes can be read by the servers' user, and what it starts has a home folder.

    The umask of whoever deploys is that of a login shell or of sudo, and often 077. What nobody else may read is
    written with a mode of its own.
    """
    os.umask(0o022)
    have_plain_python()
    have_a_home()


def have_plain_python() -> None:
    """Have nothing in the environment by which interpreters that are started find other packages, or work otherwise."""
    for name in filter(OF_ANOTHER_PYTHON.fullmatch, list(os.environ)):
        del os.environ[name]


def have_a_home() -> None:
    """Have in the environment a home folder that can be written to, and the name of the user that this process is.

    ``HOME`` counts where it can be written to; else the folder of the user database; else one of the user's own among
    the temporary files. Compilers, pip, Jupyter and others stop where they can't keep what they keep there.
    """
    user, folder = "", ""
    try:
        entry = pwd.getpwuid(os.geteuid())
        user, folder = entry.pw_name, entry.pw_dir
    except KeyError:  # as in a container that is run with a number for a user
        pass
    if user:  # su keeps the caller's
        os.environ["USER"] = os.environ["LOGNAME"] = user
    if not _is_usable(os.environ.get("HOME", "")):
        os.environ["HOME"] = folder if _is_usable(folder) else _temporary()
    if "XDG_CACHE_HOME" in os.environ and not _is_usable(os.environ["XDG_CACHE_HOME"], made=False):
        del os.environ["XDG_CACHE_HOME"]
    # What root keeps in the home of whoever called sudo -E, that user can't write to later.
    if os.stat(os.environ["HOME"]).st_uid != os.geteuid() and _is_usable(folder):
        os.environ.setdefault("XDG_CACHE_HOME", os.path.join(folder, ".cache"))


def _is_usable(path: str, made: bool = True) -> bool:
    """True where something can be kept in a folder. One still to be made counts where that is asked for."""
    if not os.path.isabs(path):
        return False
    while not made and not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _temporary() -> str:
    """A folder of this user's among the temporary files, the same one each time."""
    path = os.path.join(tempfile.gettempdir(), f"llama-nexus-home-{os.geteuid()}")
    try:
        os.mkdir(path, 0o700)
    except OSError:
        status = os.lstat(path)
        # Where anybody may make folders, one of this name could be somebody's who waits for what is put into it.
        if status.st_uid != os.geteuid() or status.st_mode & 0o170077 != 0o040000:
            return tempfile.mkdtemp(prefix="llama-nexus-home-")
    return path
