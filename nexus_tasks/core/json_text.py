"""JSON as it is written to files: typed rows, and whatever text of others is in them.

encoded(RequestRow(...))        b'{"type":"request",...}'
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


def encoded(row: Any) -> bytes:
    """A struct, or a value as JSON has it, as JSON in one line without its end; a number that is none is null."""
    try:
        return msgspec.json.encode(row)
    except UnicodeEncodeError:
        # Half of a surrogate pair, as a server's JSON may hold, must not cost the row: it becomes "?".
        text = json.dumps(msgspec.to_builtins(row), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", errors="replace")
