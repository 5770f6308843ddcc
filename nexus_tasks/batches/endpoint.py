"""Endpoints of a batch: what was found at each target when the batch began.

with reached(targets.find(["gpu-hosts"]), model=None) as endpoints:
    endpoints[0].name, endpoints[0].server.model
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nexus_tasks.fleet.targets import Target
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.servers.route import Route


@dataclass(frozen=True)
class Reached:
    """A target that can be used, or could be later: ``server`` is None where it did not answer, for ``problem``."""

    target: Target
    way: Route | None
    server: Endpoint | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """The name of the target, which entries of the journal have as ``endpoint``."""
        return self.target.name


@contextlib.contextmanager
def reached(targets: Sequence[Target], *, model: str | None) -> Iterator[list[Reached]]:
    """The endpoints behind targets, for as long as the block lasts.

    Args:
        model: the one that has to be there, as in a batch that is resumed; None takes that of the first that answers.

    Raises:
        Unauthorized: one of them wants a key, or another one.
        UsageError: one of them serves another model than the others, or than ``model``.
        NotOpenAI: one of them is no such server.
        EndpointDown: none of them answers.
    """
    raise NotImplementedError
    yield []
