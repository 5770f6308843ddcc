"""Runs of the load generator against an address, and what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from nexus_tasks.load import generator
from nexus_tasks.load.requests import Item, Limits, Request, Stage
from nexus_tasks.records.benchmark_rows import RequestRow, Watch
from nexus_tasks.servers import route
from tests.support.raw_server import Peer, serving

NO_LIMITS = Limits()
ONE = Stage("closed", concurrency=1, requests=1)


def asked(path: str = "/completion", count: int = 1_000_000, **options: Any) -> Iterator[Item]:
    """Items of one request each; the options are those of Request."""
    for number in range(count):
        yield Item((Request(path, json.dumps({"number": number}).encode(), **options),), key=f"item-{number}")


def drive(
    address: str, stage: Stage = ONE, limits: Limits = NO_LIMITS, items: Iterator[Item] | None = None, **options: Any
) -> tuple[list[RequestRow], Watch]:
    """The rows of a stage and the generator's health; the options are those of :func:`generator.run`."""
    rows: list[RequestRow] = []
    options = {"index": 0, "origin": time.perf_counter(), "on_rows": rows.extend, **options}
    api_key = options.pop("api_key", None)
    watch = generator.run(
        route.to(address).resolved(), api_key, items if items is not None else asked(), stage, limits, **options
    )
    return rows, watch


def one(
    answer: Callable[[Peer], bool | None], path: str = "/completion", limits: Limits = NO_LIMITS, **options: Any
) -> RequestRow:
    """The row of one request."""
    with serving(answer) as address:
        rows, _ = drive(address, limits=limits, items=asked(path, **options))
    assert len(rows) == 1
    return rows[0]


def error(row: RequestRow) -> tuple[str, str]:
    """Kind and message of a failure."""
    assert row.ok is False
    assert row.error
    return row.error.kind, row.error.message
