"""Presets: workloads that people name, and measure again and again.

presets.preset("quick")
"""

from __future__ import annotations

from nexus_tasks.core.errors import UsageError
from nexus_tasks.load.requests import Stage
from nexus_tasks.measurement.plan import Plan
from nexus_tasks.workloads import sizes
from nexus_tasks.workloads.workload import Spec


def _preset(name: str, prompt_tokens: int, output_tokens: int, *, runs: int, warmup: int) -> Plan:
    spec = Spec(prompt_tokens=sizes.fixed(prompt_tokens), output_tokens=sizes.fixed(output_tokens), preset=name)
    return Plan(spec, (Stage("closed", concurrency=1, requests=runs, warmup=warmup),))


PRESETS = {
    "quick": _preset("quick", 128, 64, runs=3, warmup=1),
    "standard": _preset("standard", 512, 256, runs=10, warmup=1),
    "long-context": _preset("long-context", 2048, 512, runs=3, warmup=1),
    "max-speed": _preset("max-speed", 64, 128, runs=5, warmup=2),
}
DEFAULT_PRESET = "standard"


def preset(name: str) -> Plan:
    """The plan of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"unknown preset {name!r}", hint=f"the presets are {', '.join(PRESETS)}") from None
