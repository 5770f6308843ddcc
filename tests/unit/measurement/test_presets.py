"""Presets are what the documentation says."""

from __future__ import annotations

from nexus_tasks.core import provenance
from nexus_tasks.measurement.presets import PRESETS


def test_the_presets_are_those_of_the_documentation() -> None:
    documentation = (provenance.ROOT / "docs" / "benchmarks.md").read_text()
    for name, preset in PRESETS.items():
        [stage] = preset.stages
        numbers = (preset.spec.prompt_tokens, preset.spec.output_tokens, stage.requests, stage.warmup)
        assert f"| `{name}` | " + " | ".join(map(str, numbers)) + " |" in documentation
