"""Hardware advice: which hosts can run which variant of a model at which context, the best first.

    offers = advise(model, {"rig-1": Host((24576.0,)), "rig-2": Host((81920.0, 81920.0))}, ctx_size=16384)
    offers[0].host, offers[0].variant.quantization, offers[0].ctx_size, offers[0].options

Each offer is found by planning with it. A host counts as free, whatever it serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.model_shape import ModelShape

from .memory import DOES_NOT_FIT, Gpu, MemoryPlan, plan_memory
from .registry import KnownModel, Variant
from .server_options import parse_options
from .variants import context_ladder, shape_of_variant

ON_GPUS, EXPERTS_ON_HOST, LAYERS_ON_HOST = "all on GPUs", "experts on the host", "layers on the host"
PLACES = (ON_GPUS, EXPERTS_ON_HOST, LAYERS_ON_HOST)
"""Ways to run, the fastest first."""


@dataclass(frozen=True)
class Host:
    """Memory of a host and of its GPUs in MiB; its own is None where nobody knows it."""

    gpus_mib: tuple[float, ...]
    memory_mib: float | None = None


@dataclass(frozen=True)
class Offer:
    """A way to run a variant on a host; ``options`` are llama-server's."""

    host: str
    variant: Variant
    place: str
    ctx_size: int
    """The largest that fits, of :func:`context_ladder`; where experts or layers are on the host, the one asked for."""
    options: tuple[str, ...]
    gpu_mib: tuple[float, ...]
    verdict: str

    def rank(self, wanted: int) -> tuple[object, ...]:
        """The best offer has the lowest: enough context, all on GPUs, then the largest quantisation and context."""
        enough = self.ctx_size >= wanted
        return not enough, PLACES.index(self.place), -self.variant.size_bytes, -self.ctx_size, self.host


@dataclass(frozen=True)
class Advice:
    """Offers, the best first, and what there is none of: variants by why."""

    offers: tuple[Offer, ...]
    unplanned: Mapping[str, str]


def advise(
    model: KnownModel,
    hosts: Mapping[str, Host],
    *,
    ctx_size: int,
    progress: Callable[[str], object] = lambda _: None,
) -> Advice:
    """The offers of hosts for a model, of each host and variant one.

    Args:
        hosts: by name, those that have GPUs.
        ctx_size: the tokens that a slot should have at least.
        progress: is told of each variant before it is planned.
    """
    offers: list[Offer] = []
    unplanned: dict[str, str] = {}
    for variant in model.variants:
        progress(variant.file)
        try:
            shape = shape_of_variant(variant)
            found = {host: _offer(variant, shape, host, ctx_size) for host in set(hosts.values())}
        except UsageError as error:
            unplanned[variant.file] = variant.problem or error.message
            continue
        offers += [Offer(name, *offer) for name, host in hosts.items() if (offer := found[host])]
    return Advice(tuple(sorted(offers, key=lambda offer: offer.rank(ctx_size))), unplanned)


_Found = tuple[Variant, str, int, tuple[str, ...], tuple[float, ...], str]


def _offer(variant: Variant, shape: ModelShape, host: Host, wanted: int) -> _Found | None:
    """The best way on a host; None where there is none."""

    def planned(ctx_size: int, *words: str) -> MemoryPlan:
        # Prompts that are kept in the host's memory are a limit that can be set lower.
        options, _ = parse_options(["-c", str(ctx_size), "-np", "1", "--fit", "off", "--cache-ram", "0", *words])
        gpus = [Gpu(f"CUDA{number}", mib) for number, mib in enumerate(host.gpus_mib)]
        return plan_memory(shape, options, gpus, host_free_mib=host.memory_mib)

    def fits(ctx_size: int, *words: str) -> bool:
        return planned(ctx_size, *words).verdict != DOES_NOT_FIT

    def offer(place: str, ctx_size: int, *words: str) -> _Found:
        plan = planned(ctx_size, *words)
        mib = tuple(round(device.total_mib, 1) for device in plan.devices[:-1])
        return variant, place, ctx_size, ("-c", str(ctx_size), *words), mib, plan.verdict

    ladder, least = context_ladder(shape.n_ctx_train), min(wanted, shape.n_ctx_train)
    whole = ("-ngl", "999")
    reached = _last(ladder, lambda ctx: fits(ctx, *whole))
    if reached is not None and reached >= least:
        return offer(ON_GPUS, reached, *whole)
    layers = shape.n_layer
    if fits(least, *whole):  # between two steps of the ladder
        return offer(ON_GPUS, least, *whole)
    if shape.n_expert:
        kept = _last(range(layers + 1), lambda kept: fits(least, *whole, "--n-cpu-moe", str(layers - kept)))
        if kept is not None:
            return offer(EXPERTS_ON_HOST, least, *whole, "--n-cpu-moe", str(layers - kept))
    if reached is not None:
        return offer(ON_GPUS, reached, *whole)
    most = _last(range(1, shape.n_layer_all + 1), lambda count: fits(least, "-ngl", str(count)))
    return None if most is None else offer(LAYERS_ON_HOST, least, "-ngl", str(most))


def _last(steps: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The last of steps that fits; all before one that fits do. None where the first does not."""
    low, high = 0, len(steps)  # those before low fit
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(steps[middle]) else (low, middle)
    return steps[low - 1] if low else None
