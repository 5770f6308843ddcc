"""Patterns of hosts, as people name them on a command line: an empty word in one, as of a variable that is not set, is
refused, because Ansible would take it for all hosts.

    patterns.check("gpu-hosts:!rig-1")
    patterns.split("rig-1/main")            # ("rig-1", "main")
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from nexus_tasks.core.errors import UsageError

_LIMIT = re.compile(r"-[A-Za-z]*l|--l(?:i(?:m(?:it?)?)?)?")


def check(pattern: str) -> str:
    """The pattern, where each word of it names something.

    Raises:
        UsageError: it is empty, or a word in it is.
    """
    # Ranges have colons of their own ("rig-[1:4]"), and so have regular expressions and IPv6 addresses.
    text = re.sub(r"\[[^\]]*\]", "x", pattern.strip())
    words = [text] if text.startswith("~") or _is_address(text) else re.split(r"[,:]", text)
    if any(not word.strip().lstrip("!&").strip() for word in words):
        shown = (
            "an empty pattern of hosts" if not text else f"the pattern of hosts {pattern!r} has an empty word, which"
        )
        raise UsageError(
            f"{shown} would mean all hosts", hint="name the hosts; is a variable of the command line not set?"
        )
    return pattern


def split(target: str) -> tuple[str, str]:
    """Hosts and instance of a target, HOSTS or HOSTS/INSTANCE; the instance may be missing.

    Raises:
        UsageError: one of them is empty.
    """
    hosts, slash, instance = target.partition("/")
    if slash and not instance.strip():
        raise UsageError(
            f"the target {target!r} has no instance behind its slash",
            hint="write HOST or HOST/INSTANCE; is a variable of the command line not set?",
        )
    return check(hosts), instance


def check_limits(arguments: Iterable[str]) -> None:
    """Check the patterns of ``-l`` and ``--limit`` among arguments of ansible-playbook, as :func:`check` does."""
    for pattern in _limits(arguments):
        check(pattern)


def _limits(arguments: Iterable[str]) -> Iterator[str]:
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not _LIMIT.fullmatch(name):
            if re.match(r"-l[^-]", argument):
                yield argument[2:]
            continue
        yield value if equals else next(rest, "")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
