"""Changes that would make a model fit, each found by planning with it: of options, or another quantisation by name.

remedies(plan, ["-c", "131072"], planner)                        [Remedy("a smaller context", ("-c", "65536")), ...]
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nexus_tasks.core.errors import UsageError

from .memory import DOES_NOT_FIT, MemoryPlan

CONTEXT_STEP = 1024
PROMPT_STEP = 256  # MiB
SECONDS = 5.0  # of a search, after which what was found stands


@dataclass(frozen=True)
class Remedy:
    """Options to add, and what they are about."""

    what: str
    options: tuple[str, ...]


Planner = Callable[[Sequence[str]], MemoryPlan]


def remedies(
    plan: MemoryPlan, words: Sequence[str], planner: Planner, others: Mapping[str, Planner] | None = None
) -> list[Remedy]:
    """Changes of one thing each that would make it fit.

    Args:
        words: the options of the plan.
        planner: plans with other options.
        others: by the names of profiles that hold the model otherwise quantised, what plans those.
    """
    of_contexts = (_context, _cache_types, _slots) if _has_room_for_weights(plan) else ()
    tries = (*of_contexts, _experts, _checkpoints, _prompt_cache)
    bounded = _within(SECONDS, planner)
    found = [remedy for attempt in tries if (remedy := attempt(plan, words, bounded))]
    return [*found, *_quantisations(plan, words, others or {}), *_smaller_weights(plan)]


def _has_room_for_weights(plan: MemoryPlan) -> bool:
    """False where a device is too small for its weights alone, which no context makes smaller."""
    needs = [(device.weights_mib + device.overhead_mib, device.free_mib) for device in plan.devices]
    return all(free is None or need <= free for need, free in needs)


def _within(seconds: float, planner: Planner) -> Planner:
    """The same for some seconds; then nothing fits any more: a model may have hundreds of layers."""
    end = time.monotonic() + seconds

    def plan(words: Sequence[str]) -> MemoryPlan:
        if time.monotonic() > end:
            raise UsageError("the search for what would fit took too long", hint="try other options by hand")
        return planner(words)

    return plan


def _quantisations(plan: MemoryPlan, words: Sequence[str], others: Mapping[str, Planner]) -> list[Remedy]:
    """Profiles of the same model that fit, the largest first."""
    fitting = {}
    for name, planner in others.items():
        with contextlib.suppress(UsageError):  # as where the hub is out of reach
            made = planner(words)
            if made.verdict != DOES_NOT_FIT and made.shape.size_bytes < plan.shape.size_bytes:
                fitting[name] = made.shape.size_bytes / (1 << 30)
    return [
        Remedy(f"the profile {name}, the same model in {size:.1f} GiB", ())
        for name, size in sorted(fitting.items(), key=lambda one: -one[1])
    ]


def _fits(planner: Planner, words: Sequence[str], more: Sequence[str]) -> bool:
    try:
        return planner([*words, *more]).verdict != DOES_NOT_FIT
    except UsageError:
        return False


def _context(plan: MemoryPlan, words: Sequence[str], planner: Planner) -> Remedy | None:
    """The largest context, to 1024 tokens."""
    slots = 1 if plan.context.unified else plan.context.n_seq_max
    step = CONTEXT_STEP * slots

    def fits(steps: int) -> bool:
        return _fits(planner, words, ["-c", str(steps * step)])

    steps = _largest(fits, plan.context.n_ctx // step)
    return Remedy("a smaller context", ("-c", str(steps * step))) if steps else None


def _largest(fits: Callable[[int], bool], upper: int) -> int:
    """The largest number up to ``upper`` that fits, 0 where none does; all below one that fits do."""
    low, high = 0, upper + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _experts(plan: MemoryPlan, words: Sequence[str], planner: Planner) -> Remedy | None:
    """The fewest layers whose experts stay in the host's memory."""
    if not plan.shape.n_expert:
        return None
    layers = plan.shape.n_layer
    if not _fits(planner, words, ["--n-cpu-moe", str(layers)]):
        return None
    most = _largest(lambda kept: _fits(planner, words, ["--n-cpu-moe", str(layers - kept)]), layers)
    return Remedy("experts in the host's memory", ("--n-cpu-moe", str(layers - most)))


def _cache_types(plan: MemoryPlan, words: Sequence[str], planner: Planner) -> Remedy | None:
    for kind in ("q8_0", "q4_0"):
        more = ("-ctk", kind, "-ctv", kind, "-fa", "on")
        if plan.options.cache_type_k != kind and _fits(planner, words, more):
            return Remedy("a quantised cache", more)
    return None


def _slots(plan: MemoryPlan, words: Sequence[str], planner: Planner) -> Remedy | None:
    """Fewer slots, each with as much context as now."""
    slots = plan.context.n_seq_max
    per_slot = plan.context.n_ctx // slots

    def more(fewer: int) -> tuple[str, ...]:
        return "-np", str(fewer), "-c", str(per_slot * fewer)

    most = _largest(lambda fewer: _fits(planner, words, more(fewer)), slots - 1)
    return Remedy("fewer slots", more(most)) if most else None


def _checkpoints(plan: MemoryPlan, words: Sequence[str], planner: Planner) -> Remedy | None:
    """As many states of earlier positions as the host has room for."""
    if not plan.devices[-1].checkpoints_mib or plan.devices[-1].verdict != DOES_NOT_FIT:
        return None

    def more(count: int) -> tuple[str, str]:
        return "--ctx-checkpoints", str(count)

    if not _fits(planner, words, more(0)):
        return None
    most = _largest(lambda count: _fits(planner, words, more(count)), plan.options.ctx_checkpoints)
    return Remedy("fewer checkpoints", more(most))


def _prompt_cache(plan: MemoryPlan, words: Sequence[str], planner: Planner) -> Remedy | None:
    """As large a cache of prompts as the host has room for, to 256 MiB."""
    host = plan.devices[-1]
    if host.left_mib is None or host.left_mib >= 0 or host.prompt_cache_mib + host.left_mib < 0:
        return None
    room = int((host.prompt_cache_mib + host.left_mib) // PROMPT_STEP) * PROMPT_STEP
    more = ("--cache-ram", str(room))
    return Remedy("a smaller cache of prompts", more) if _fits(planner, words, more) else None


def _smaller_weights(plan: MemoryPlan) -> list[Remedy]:
    """The size of a quantisation that would fit, all else being equal."""
    gpus = plan.devices[:-1]
    if not gpus or plan.verdict != DOES_NOT_FIT:
        return []
    free = sum(gpu.free_mib or 0 for gpu in gpus)
    others = sum(gpu.total_mib - gpu.weights_mib for gpu in gpus)
    weights = sum(gpu.weights_mib for gpu in gpus)
    if free <= others or weights <= 0:
        return []
    share = (free - others) / weights
    if share >= 1:  # it is not for the weights
        return []
    size = plan.shape.size_bytes / (1 << 30)
    return [Remedy(f"another quantisation of the model, of {share * size:.1f} GiB or less ({size:.1f} now)", ())]
