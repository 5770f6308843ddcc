"""The fixture ``bed``: test hosts for the session."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import NoReturn

import pytest

from tests.bed.engine import is_root, missing, running_engine
from tests.bed.hosts import Bed
from tests.bed.images import Images
from tests.conftest import cache_folder
from tests.workers import tell


def refuse(reason: str, *, root: bool, environment: Mapping[str, str] = os.environ) -> NoReturn:
    """Skip what needs test hosts; in CI, where root could have them, fail instead."""
    if root and environment.get("CI"):
        pytest.fail(f"{reason}; CI must not go without", pytrace=False)
    pytest.skip(reason)  # a machine without root or Docker still runs all other tests


@pytest.fixture(scope="session")
def bed(request: pytest.FixtureRequest) -> Iterator[Bed]:
    """The test hosts of this session; their images are made on the first run and kept by the Docker engine."""
    root = is_root()
    if (reason := missing(root=root)) is not None:
        refuse(reason, root=root)
    cache = cache_folder()
    images = functools.partial(Images, cache=cache, report=functools.partial(tell, request.config))
    with running_engine(cache) as client, Bed(client, images(client), cache) as hosts:
        yield hosts
