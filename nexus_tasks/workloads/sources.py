"""Sources of a workload's requests.

    source = sources.prepare(client, server, spec)          # ``spec`` is settled; asks the server what its tokens are
    for item in source.items(stage=0): ...                  # endless; what generator.run takes

Items are made one by one while the server is measured, and never run dry. That costs microseconds each (see
:class:`stock.Stock`), so nothing has to be made ahead, and a long run needs no more memory than a short one.

The lengths of prompts and answers are drawn from the seed, or from 0 where none is given: two runs of one
workload ask for the same lengths in the same order. What the prompts say is new in every run, because servers
remember prompts; only a given seed makes it the same again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import httpx

from nexus_tasks.load.requests import Item
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads import file_source, synthetic_source
from nexus_tasks.workloads.bodies import Form
from nexus_tasks.workloads.workload import Spec


class Source(Protocol):
    """Source of a workload's items; :func:`prepare` makes one."""

    @property
    def spec(self) -> Spec:
        """The workload as it is asked: what belongs into the header of a record."""
        ...

    def items(self, *, stage: int = 0, length: int | None = None) -> Iterator[Item]:
        """Items without end, alike in each stage but for what the prompts say.

        Args:
            stage: its number; the stages of one run have different prompts.
            length: prompt tokens of this stage, for ``context``.
        """
        ...


def prepare(client: httpx.Client, server: Endpoint, spec: Spec) -> Source:
    """Ask the server what its tokens are, once for all stages of a run.

    Args:
        spec: settled.

    Raises:
        UsageError: a length that the chat template leaves no room for, or an entry of a file that is too long.
        EndpointError: the server can't do what the workload is about, or its tokens can't be known.
    """
    form = Form(
        server,
        str(spec.api),
        temperature=spec.temperature,
        ignore_eos=spec.ignore_eos,
        cache=spec.prompts == "same" or spec.kind in ("conversations", "shared-prefix"),
    )
    if spec.file:
        return file_source.prepare(client, server, spec, spec.file, form)
    return synthetic_source.prepare(client, server, spec, form)
