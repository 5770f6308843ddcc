"""Variants of a model described: the headers that plans are made from, and the memory that each takes.

described = describe(variant, open_shape)          # reads the header, a few MB of a remote model
shape_of_variant(described)                        # its shape again, without a file or a network
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.gguf import GgufError, Header, Tensor
from nexus_tasks.hostlib.model_shape import ModelShape, shape_of

from .memory import Gpu, plan_memory
from .registry import KnownHeader, Needs, Variant
from .server_options import parse_options

USUAL_CTX = 8192
ENDLESS_MIB = float(1 << 40)
WORDS = ("-ngl", "999", "--fit", "off", "-np", "1")


def describe(variant: Variant, open_shape: Callable[[Variant], ModelShape]) -> Variant:
    """The variant with what its header tells; where that can't be read or planned, with the reason.

    Raises UsageError only where the first file can't be had at all, so that no network is no fact about a model.
    """
    shape = open_shape(variant)
    described = msgspec.structs.replace(
        variant, architecture=shape.architecture, n_ctx_train=shape.n_ctx_train,
        headers=[_known(header) for header in shape.files], problem=None,
    )  # fmt: skip
    try:
        needs = [needs_of(shape, ctx) for ctx in sorted({min(USUAL_CTX, shape.n_ctx_train), shape.n_ctx_train})]
    except UsageError as error:
        return msgspec.structs.replace(described, needs=[], problem=error.message)
    return msgspec.structs.replace(described, needs=needs)


def needs_of(shape: ModelShape, ctx_size: int) -> Needs:
    """The memory that one slot takes on one GPU that has room for all. Raises UsageError for what the rules lack."""
    options, _ = parse_options([*WORDS, "-c", str(ctx_size)])
    gpu, host = plan_memory(shape, options, [Gpu("CUDA0", ENDLESS_MIB)]).devices
    # The host's prompt cache is a limit of the server's, the same for all models.
    return Needs(
        ctx_size=ctx_size, gpu_mib=round(gpu.total_mib, 1),
        host_mib=round(host.total_mib - host.prompt_cache_mib - host.checkpoints_mib, 1),
    )  # fmt: skip


def shape_of_variant(variant: Variant) -> ModelShape:
    """The shape of a described variant, from what is known of its headers. Raises UsageError where nothing is."""
    if not variant.headers:
        raise UsageError(
            f"the header of {variant.file} is not known", hint="add the model again where the hub is in reach"
        )
    try:
        return shape_of([_header(known) for known in variant.headers])
    except GgufError as error:
        what, _, hint = str(error).rpartition("; ")
        raise UsageError(what or hint, hint=hint if what else "add the model again") from error


def _known(header: Header) -> KnownHeader:
    tensors = [(one.name, list(one.shape), one.type, one.offset) for one in header.tensors]
    values = {key: value for key, value in header.values.items() if not _is_text(key)}
    return KnownHeader(
        name=header.name, size_bytes=header.size_bytes, values=values, tensors=tensors, data_start=header.data_start
    )


def _is_text(key: str) -> bool:
    """True for what no plan needs: templates and the like."""
    return key.startswith("tokenizer.") and key != "tokenizer.ggml.model"


def _header(known: KnownHeader) -> Header:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in known.values.items()}
    tensors = tuple(Tensor(name, tuple(shape), kind, offset) for name, shape, kind, offset in known.tensors)
    return Header(known.name, known.size_bytes, values, tensors, known.data_start)


def context_ladder(n_ctx_train: int) -> Sequence[int]:
    """Contexts to try, the smallest first: powers of two from 2048 on, and the model's own."""
    steps = [1 << power for power in range(11, 31) if 1 << power < n_ctx_train]
    return [*steps, n_ctx_train]
