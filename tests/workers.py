"""What the workers of a run have in common: things made once for all of them, and one terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.locks import lock

T = TypeVar("T")

SHARED = "tests_shared"  # in the input of each worker: a folder of the run


def tell(config: pytest.Config, line: str) -> None:
    """Say on the terminal how far something is: minutes of silence look like a hang. A worker's stdout goes nowhere."""
    capture = config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        sys.stderr.write(f"  {line}\n")
        sys.stderr.flush()


def shared_folder(config: pytest.Config) -> Path | None:
    """The folder that the workers of this run share; None where this process is no worker."""
    given: dict[str, Any] = getattr(config, "workerinput", {})
    return Path(given[SHARED]) if given else None


def once(config: pytest.Config, name: str, make: Callable[[], T]) -> T:
    """What ``make`` returns, which must be JSON: made by the first worker that asks, while the others wait for it."""
    if (folder := shared_folder(config)) is None:
        return make()
    kept = folder / f"{name}.json"
    with lock(folder / f"{name}.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(make()))
    found: T = json.loads(kept.read_text())
    return found
