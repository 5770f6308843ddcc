"""Names in HAProxy's configuration: of models' backends and of servers. The plan holds the way back."""

from __future__ import annotations

import hashlib
import re

ALLOWED = re.compile(r"[A-Za-z0-9_.:-]+")
TAG_DIGITS = 8


def backend_name(model: str) -> str:
    """The backend of a model, as ``model_qwen3-8b``; no two models have one."""
    return f"model_{safe(model)}"


def server_name(host: str, instance: str) -> str:
    """The server of an instance, as ``rig-1_main``. No two instances have one: theirs have no underscore."""
    return f"{safe(host)}_{safe(instance)}"


def server_id(host: str, instance: str) -> int:
    """The number of an instance's server, from 1 to 2**31 - 1, the same in each configuration: what is noted of it
    survives others that come and go.
    """
    digest = hashlib.sha256(f"{host}/{instance}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % (2**31 - 1) + 1


def safe(text: str) -> str:
    """A text as part of a name; where characters had to be replaced, a hash keeps it apart from others."""
    if ALLOWED.fullmatch(text):
        return text
    tag = hashlib.sha256(text.encode()).hexdigest()[:TAG_DIGITS]
    return f"{re.sub(r'[^A-Za-z0-9_.:-]', '_', text)}.{tag}"
