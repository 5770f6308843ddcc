"""Ways in which a record can be damaged: by a disk, an editor, another program, another version."""

from __future__ import annotations

from pathlib import Path


def _damages(good: bytes) -> dict[str, bytes]:
    header, *rows = good.split(b"\n")
    rest = b"\n".join(rows)
    start = header[header.index(b'"started_at"') :].split(b",")[0]
    return {
        "empty": b"",
        "cut off in its header": header[:40],
        "no JSON": b"\x00" * 200 + b"\n" + good,
        "another program's": b'{"a": 1}\n',
        "a list": b"[]\n" + rest,
        "half a row": header + b'\n{"type": "requ\n' + rest,
        "no UTF-8": header + b'\n{"type": "\xff"}\n' + rest,
        "lists in lists": header + b"\n" + b"[" * 100_000 + b"\n" + rest,
        "a long number": header + b'\n{"type": "request", "index": ' + b"9" * 6000 + b"}\n" + rest,
        "a text for a number": good.replace(b'"index":1,', b'"index":"one",', 1),
        "infinity": good.replace(b'"wall_s":', b'"wall_s":Infinity,"was":', 1),
        "too large a number": good.replace(b'"wall_s":', b'"wall_s":1e999,"was":', 1),
        "a later schema": good.replace(b'"schema":2', b'"schema":99', 1),
        "a moment without its zone": good.replace(start, b'"started_at":"2026-11-22T12:00:00"', 1),
        "a header without a target": good.replace(b'"target":', b'"tarGet":', 1),
    }


DAMAGES = tuple(_damages(b'{"started_at": 1,\n'))


def damage(path: Path, how: str) -> None:
    """Damage a record in one of DAMAGES."""
    good = path.read_bytes()
    damaged = _damages(good)[how]
    assert damaged != good, how
    path.write_bytes(damaged)
