"""The rules of an architecture that differ from others': sliding windows, recurrent layers, caches, and the graph.

    rules = rules_of(shape)
    rules.swa_layers(shape)          (True, True, False, …), or nothing

From load_arch_hparams and the graph of each file in llama.cpp's src/models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nexus_tasks.hostlib.model_shape import ModelShape

if TYPE_CHECKING:
    from .building import Building

LayerFlags = tuple[bool, ...]


@dataclass(frozen=True)
class Window:
    """Layers with a sliding window, where the metadata doesn't list them."""

    period: int
    """The last of so many layers attends to everything; 0: none does."""
    dense_first: bool = False
    """Of a period the first attends to everything, not the last."""
    size: int = 0
    """Of the window, where the metadata names none."""
    fixed: bool = False
    """The size is this one, whatever the metadata says, unless that is 0."""
    only_layers: int = 0
    """Models with another number of layers have no window."""

    def layers(self, shape: ModelShape) -> LayerFlags:
        """True for each layer with a window."""
        listed = shape.values.get("attention.sliding_window_pattern")
        if isinstance(listed, tuple):
            told = tuple(bool(one) for one in listed[: shape.n_layer_all])
            return (*told, *[False] * (shape.n_layer_all - len(told)))
        period = listed if isinstance(listed, int) and not isinstance(listed, bool) else self.period
        full = 0 if self.dense_first else period - 1
        own = [period == 0 or layer % period != full for layer in range(shape.n_layer)]
        return (*own, *[False] * shape.n_layer_nextn)


@dataclass(frozen=True)
class Rules:
    """An architecture."""

    build: Callable[[Building], None]
    """Records the graph."""
    window: Window | None = None
    recurrent: Callable[[ModelShape], LayerFlags] | None = None
    attends: Callable[[ModelShape, int, bool], bool] | None = None
    """Whether a layer has an attention cache, from its number and whether it is recurrent; else those that aren't."""
    has_cache: bool = True
    """False for encoders."""
    causal: bool = True
    supported: Callable[[ModelShape], str] | None = None
    """Why a model of this architecture is not covered; nothing where it is."""

    rollback: bool = False
    """Whether recurrent layers keep earlier states, to go back to."""

    def window_size(self, shape: ModelShape) -> int:
        """Tokens of the sliding windows; 0 where the model has none."""
        window = self.window
        if window is None or window.only_layers not in (0, shape.n_layer):
            return 0
        told = shape.integer("attention.sliding_window", window.size)
        return window.size if window.fixed and told else told

    def swa_layers(self, shape: ModelShape) -> LayerFlags:
        """True for each layer with a sliding window; nothing where the model has none."""
        return self.window.layers(shape) if self.window and self.window_size(shape) else ()

    def recurrent_layers(self, shape: ModelShape) -> LayerFlags:
        """True for each recurrent layer; nothing where there is none."""
        return self.recurrent(shape) if self.recurrent else ()

    def has_attention(self, shape: ModelShape, layer: int, recurrent: LayerFlags) -> bool:
        """True where a layer has an attention cache."""
        is_recurrent = bool(recurrent) and recurrent[layer]
        return self.attends(shape, layer, is_recurrent) if self.attends else not is_recurrent

    def is_mla(self, shape: ModelShape) -> bool:
        """True where keys and values are kept compressed, as one."""
        return bool(shape.integer("attention.key_length_mla")) and bool(shape.integer("attention.value_length_mla"))

    def state_widths(self, shape: ModelShape) -> tuple[int, int]:
        """n_embd_r and n_embd_s: elements of the two states of a recurrent layer and sequence."""
        if shape.integer("shortconv.l_cache"):
            return shape.n_embd * (shape.integer("shortconv.l_cache") - 1), 0
        kernel, inner = shape.integer("ssm.conv_kernel"), shape.integer("ssm.inner_size")
        state, groups = shape.integer("ssm.state_size"), shape.integer("ssm.group_count")
        kda = shape.integer("kda.head_dim")
        if kda:
            heads = shape.n_head[0]
            return 3 * (kernel - 1 if kernel else 3) * heads * kda, kda * kda * heads
        return max(kernel - 1, 0) * (inner + 2 * groups * state), state * inner
