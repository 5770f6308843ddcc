"""Metering of a batch: the energy that the GPUs behind its endpoints take while it works.

with metered(endpoints, place.say) as meter:
    runner.run(..., meter=meter)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from nexus_tasks.batches.endpoint import Reached
from nexus_tasks.core.errors import NexusError
from nexus_tasks.core.text import listing
from nexus_tasks.fleet import energy_meter, exporters, locality
from nexus_tasks.fleet.energy_meter import Meter


@contextlib.contextmanager
def metered(endpoints: Sequence[Reached], say: Callable[[str], object]) -> Iterator[Meter]:
    """A meter of the machines behind endpoints; what it can't find out is said and stops nothing."""
    elsewhere = [one for one in endpoints if not _is_here(one)]
    try:
        declared = exporters.beside([one.target for one in elsewhere])
    except NexusError as error:
        declared = {}
        say(f"the energy of other hosts is not known: {error.message}")
    hosts = [one.target.instance.host if one.target.instance else None for one in elsewhere]
    meter = Meter(
        local=len(elsewhere) < len(endpoints), exporters=declared.values(),
        is_partial=any(host not in declared for host in hosts),
    )  # fmt: skip
    with meter:
        for host, problem in meter.problems.items():
            say(f"the energy of {host} is not known: {problem}")
        try:
            yield meter
        finally:
            meter.stop()
            if gaps := [energy_meter.named(source) for source in meter.gaps if source not in meter.problems]:
                say(f"the energy of {listing(gaps)} is not known of all GPUs, or not all of the time")


def _is_here(one: Reached) -> bool:
    """True where the server runs on this machine; of one that did not answer the inventory tells."""
    if one.found is None:
        return one.target.instance is not None and one.target.instance.here
    return locality.is_local(one.found.target, one.found.server)
