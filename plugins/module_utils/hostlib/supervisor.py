"""Values of supervisor's configuration file, in which a percent sign expands and a command is split as by a shell.

    value("/srv/50% of it")                       /srv/50%% of it
    command(["/srv/my models/python", "-m", "x"])    '/srv/my models/python' -m x

Source: supervisord.org/configuration.html. Python 3.9's standard library only.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def value(text: str) -> str:
    """A value that is taken as it is, a path for example."""
    return text.replace("%", "%%")


def command(argv: Sequence[str]) -> str:
    """The value of ``command`` that runs ``argv``."""
    return value(shlex.join(argv))
