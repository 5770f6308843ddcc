"""Endpoints of a batch: what is at each target when the batch begins, and whenever it is asked again.

with reached(targets.find(["gpu-hosts"]), model=None) as endpoints:
    endpoints[0].name, endpoints[0].server.model
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nexus_tasks.core.errors import EndpointDown, NexusError, UsageError
from nexus_tasks.fleet import targets
from nexus_tasks.fleet.targets import Target
from nexus_tasks.servers import client, endpoint, route
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.servers.route import Route

ASKED_AT_ONCE = 16


@dataclass(frozen=True)
class Reached:
    """A target that can be used, or could be later: ``server`` is None where it did not answer, for ``problem``.

    One that is lost can't: there is no way to it.
    """

    target: Target
    server: Endpoint | None = None
    way: Route | None = None
    problem: str | None = None
    is_lost: bool = False

    @property
    def name(self) -> str:
        """The name of the target, which entries of the journal have as ``endpoint``."""
        return self.target.name


@contextlib.contextmanager
def reached(wanted: Sequence[Target], *, model: str | None) -> Iterator[list[Reached]]:
    """The endpoints behind targets, for as long as the block lasts.

    Args:
        model: the one that has to be there, as in a batch that is resumed; None takes that of the first that answers.

    Raises:
        Unauthorized: one of them wants a key, or another one.
        UsageError: one of them serves another model than the others, or than ``model``.
        NotOpenAI: one of them is no such server.
        EndpointDown: none of them answers.
    """
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(ASKED_AT_ONCE) as threads:
        endpoints = list(threads.map(_asked, [_way_to(target, stack) for target in wanted]))
        down = [one for one in endpoints if one.server is None]
        if len(down) == len(endpoints):
            raise EndpointDown(
                "no endpoint answers: " + "; ".join(one.problem or one.name for one in down[:3]),
                hint="nox -s status shows how the servers are; start one, then try again",
            )
        _check_models(endpoints, model)
        yield endpoints


def ask(target: Target) -> tuple[Endpoint, Route]:
    """The server at a target as it is now, and the way there.

    Raises:
        EndpointDown, Unauthorized, NotOpenAI: as :func:`nexus_tasks.servers.endpoint.probe`.
    """
    way = route.to(target.base_url).resolved()
    with client.connect(way, target.api_key) as connected:
        return endpoint.probe(connected, model=target.model, api_path=target.api_path), way


def _way_to(target: Target, stack: contextlib.ExitStack) -> Reached:
    try:
        return Reached(stack.enter_context(targets.reach(target)))
    except EndpointDown as error:
        return Reached(target, problem=problem_of(error), is_lost=True)


def _asked(one: Reached) -> Reached:
    if one.problem:
        return one
    try:
        return Reached(one.target, *ask(one.target))
    except EndpointDown as error:
        return Reached(one.target, problem=problem_of(error))


def _check_models(endpoints: Sequence[Reached], model: str | None) -> None:
    served = {one.name: one.server.model for one in endpoints if one.server}
    first, found = next(iter(served.items()))
    expected = model or found
    other = next(((name, its) for name, its in served.items() if its != expected), None)
    if other is None:
        return
    whose = "the batch was begun with" if model else f"{first} serves"
    raise UsageError(
        f"{other[0]} serves {other[1]}, and {whose} {expected}",
        hint="a batch is answered by one model: name endpoints that serve it",
    )


def problem_of(error: NexusError) -> str:
    """An error as a line of the runner's."""
    return " ".join(error.message.split())
