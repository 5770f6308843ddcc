"""Planning of one model: its headers and those beside it, its profile's recommendations, and what would make it fit.

asked = Planning.of("gpt-oss-20b-mxfp4", ["-np", "4"], gpus, catalogue=catalogue_of())
plan = asked.plan(asked.words)
asked.remedies(plan)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_tasks.hostlib.model_shape import ModelShape

from .memory import DOES_NOT_FIT, Gpu, MemoryPlan, plan_memory
from .model_sources import open_model
from .other_flags import check_known
from .profiles import other_quantisations, recommended_words
from .remedies import Remedy, remedies
from .server_options import parse_options

Catalogue = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Planning:
    """A model, options of llama-server, and the devices that there are."""

    model: str
    words: tuple[str, ...]
    """The options, those that the model's profile recommends first."""
    recommended: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    host_free_mib: float | None
    catalogue: Catalogue
    shape: ModelShape
    draft: ModelShape | None
    projector: ModelShape | None

    @classmethod
    def of(
        cls, model: str, words: Sequence[str], gpus: Sequence[Gpu], *, catalogue: Catalogue,
        host_free_mib: float | None = None,
    ) -> Planning:  # fmt: skip
        """Read what is needed. Raises UsageError for options, and for models that can't be read."""
        recommended = tuple(recommended_words(catalogue.get(model, {}), words))
        options, others = parse_options([*recommended, *words])
        check_known(others)
        return cls(
            model, (*recommended, *words), recommended, tuple(gpus), host_free_mib, catalogue,
            open_model(model, catalogue),
            open_model(options.model_draft, catalogue) if options.model_draft else None,
            open_model(options.mmproj, catalogue) if options.mmproj else None,
        )  # fmt: skip

    @property
    def without_effect(self) -> list[str]:
        """Flags that change no buffer."""
        return parse_options(self.words)[1]

    def plan(self, words: Sequence[str], shape: ModelShape | None = None) -> MemoryPlan:
        """The plan with some options, of this model or of another one in its place."""
        return plan_memory(
            shape or self.shape, parse_options(words)[0], self.gpus,
            host_free_mib=self.host_free_mib, draft=self.draft, projector=self.projector,
        )  # fmt: skip

    def remedies(self, plan: MemoryPlan) -> list[Remedy]:
        """Changes that would make it fit; none where it does."""
        if plan.verdict != DOES_NOT_FIT:
            return []
        others = {
            name: functools.partial(self._other, name) for name in other_quantisations(self.model, self.catalogue)
        }
        return remedies(plan, self.words, self.plan, others)

    def _other(self, name: str, words: Sequence[str]) -> MemoryPlan:
        return self.plan(words, open_model(name, self.catalogue))
