"""The fixture ``bed``: test hosts for the session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import NoReturn

import pytest

from tests.bed.engine import is_root, missing, running_engine
from tests.bed.hosts import Bed
from tests.bed.images import Images
from tests.conftest import cache_folder


def refuse(reason: str, *, root: bool, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Skip what needs test hosts; in CI, where root could have them, fail instead."""
    if root and environment.get("CI"):
        pytest.fail(f"{reason}; CI must not go without", pytrace=False)
    pytest.skip(reason)  # a machine without root or Docker still runs all other tests


@pytest.fixture(scope="session")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """The test hosts of this session; their images are made on the first run and kept by the Docker engine."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None

    def report(line: str) -> None:
        with capture.global_and_fixture_disabled():  # a minute of silence looks like a hang
            sys.stdout.write(f"\n  {line}")
            sys.stdout.flush()

    root = is_root()
    if (reason := missing(root=root)) is not None:
        refuse(reason, root=root)
    cache = cache_folder()
    with running_engine(cache) as client, Bed(client, Images(client, cache, report), cache) as hosts:
        yield hosts
