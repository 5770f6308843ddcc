"""The context that llama-server makes of its options: sizes of caches and batches, as llama-context.cpp computes them.

context = context_of(shape, options)
context.n_ctx_seq, context.streams
"""

from __future__ import annotations

from dataclasses import dataclass

from nexus_tasks.hostlib.model_shape import ModelShape
from nexus_tasks.hostlib.tensor_types import type_number

from .server_options import POOLINGS, ServerOptions

CELLS = 256  # the multiple of all caches


@dataclass(frozen=True)
class Context:
    """Sizes of a context."""

    n_ctx: int
    n_ctx_seq: int
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    unified: bool
    n_outputs_max: int
    type_k: int
    type_v: int
    flash_attention: bool
    offload_kqv: bool
    op_offload: bool
    swa_full: bool
    pooling: str | None = None
    """Of embeddings, where those are served."""
    snapshots: int = 1
    """States that recurrent layers keep of each sequence."""
    mixed: bool = True
    """Whether a batch may hold tokens and embeddings at once; releases before b11434 had none."""
    mtp: bool = False
    """Whether it is that of the layers of multi-token prediction alone."""

    @property
    def streams(self) -> int:
        """Caches of attention side by side: one a sequence, unless they share one."""
        return 1 if self.unified else self.n_seq_max

    @property
    def n_tokens(self) -> int:
        """Tokens of the largest batch, a multiple of the sequences."""
        tokens = min(self.n_ctx, self.n_ubatch)
        return tokens + -tokens % self.n_seq_max


def pad_cells(cells: int) -> int:
    """The next multiple of 256."""
    return cells + -cells % CELLS


def context_of(shape: ModelShape, options: ServerOptions, *, causal: bool = True) -> Context:
    """The context of a model. ``causal``: whether its tokens attend to earlier ones only."""
    wanted = options.ctx_size or shape.n_ctx_train
    n_batch = min(wanted, options.n_batch) if causal else options.n_batch
    n_ctx, sequences = pad_cells(wanted), options.parallel
    n_ctx_seq = n_ctx if options.kv_unified else pad_cells(n_ctx // sequences)
    n_ubatch = min(n_batch, options.ubatch_size or n_batch)
    return Context(
        n_ctx=n_ctx if options.kv_unified else n_ctx_seq * sequences,
        n_ctx_seq=n_ctx_seq,
        n_seq_max=sequences,
        n_batch=n_batch,
        n_ubatch=n_ubatch,
        unified=options.kv_unified,
        n_outputs_max=n_batch if options.all_outputs else min(n_batch, sequences * options.outputs_per_sequence),
        type_k=type_number(options.cache_type_k),
        type_v=type_number(options.cache_type_v),
        flash_attention=options.flash_attn != "off",
        offload_kqv=options.kv_offload,
        op_offload=options.op_offload,
        swa_full=options.swa_full,
        pooling=_pooling(shape, options) if options.embedding else None,
    )


def _pooling(shape: ModelShape, options: ServerOptions) -> str:
    """The pooling that is asked for, else the model's own."""
    own = shape.integer("pooling_type")
    return options.pooling or (POOLINGS[own] if own < len(POOLINGS) else POOLINGS[0])
