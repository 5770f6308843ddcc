"""The shape of a model as its header gives it: layers, heads, experts and tensors, by llama.cpp's own rules.

    shape = shape_of(read_model("model.gguf"))
    shape.architecture, shape.n_layer, shape.tensors["blk.0.attn_q.weight"].shape

Numbers that may differ from layer to layer are tuples with one a layer, as llama.cpp's load_hparams reads them. What
only some architectures have is in ``values``, by the key without the architecture's name. Python 3.9's standard library
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .gguf import GgufError, Header, Tensor

MAX_LAYERS, MAX_EXPERTS = 512, 1024  # llama.cpp's own
MAX_DIMENSION = 1 << 31
MAX_NAME = 64
MAX_BYTES = 1 << 60  # of all tensors
PROJECTOR = "clip"  # the architecture of the files that --mmproj takes


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model from which its memory follows."""

    architecture: str
    name: str
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_layer_all: int
    """Layers, those of multi-token prediction included."""
    n_layer_nextn: int
    """Layers of multi-token prediction, the last ones."""
    n_head: tuple[int, ...]
    n_head_kv: tuple[int, ...]
    n_ff: tuple[int, ...]
    n_expert: int
    n_expert_used: tuple[int, ...]
    head_k: int
    head_v: int
    head_k_swa: int
    head_v_swa: int
    n_rot: int
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: tuple[Header, ...]

    @property
    def n_layer(self) -> int:
        """Layers that every token passes."""
        return self.n_layer_all - self.n_layer_nextn

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def number(self, key: str, otherwise: float = 0) -> float:
        """A number of the metadata."""
        value = self.values.get(key, otherwise)
        return value if isinstance(value, (int, float)) else otherwise

    def integer(self, key: str, otherwise: int = 0) -> int:
        """A whole number of the metadata."""
        value = self.values.get(key, otherwise)
        return value if isinstance(value, int) and 0 <= value < MAX_DIMENSION else otherwise


def shape_of(files: Sequence[Header]) -> ModelShape:
    """The shape of a model, from the headers of all its files, the first of which has the metadata.

    Of a projector llama.cpp reads no numbers, and its own are named otherwise: all are 0, and the tensors are there.

    Raises GgufError where a number is missing or beyond any that llama.cpp takes.
    """
    first = files[0]
    architecture = first.values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isprintable() or not 0 < len(architecture) <= MAX_NAME:
        raise _no_model(first, "general.architecture names none")
    prefix = architecture + "."
    values = {key[len(prefix) :]: value for key, value in first.values.items() if key.startswith(prefix)}
    values.update({key: value for key, value in first.values.items() if key.startswith(("general.", "tokenizer."))})
    tensors: dict[str, Tensor] = {}
    for header in files:
        for tensor in header.tensors:
            if tensor.name in tensors:
                raise _no_model(header, f"tensor {tensor.name!r} is in two of its files")
            tensors[tensor.name] = tensor
    return _Reader(first, architecture, values, tensors, tuple(files)).shape()


def _no_model(header: Header, why: str) -> GgufError:
    return GgufError(f"{header.name} is no model that llama.cpp loads: {why}; take another conversion of the model")


@dataclass(frozen=True)
class _Reader:
    """Metadata on its way to a shape."""

    header: Header
    architecture: str
    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    files: tuple[Header, ...]

    def shape(self) -> ModelShape:
        if sum(tensor.size_bytes for tensor in self.tensors.values()) >= MAX_BYTES:
            raise _no_model(self.header, "its tensors are larger than any storage")
        if self.architecture == PROJECTOR:
            return self._projector()
        layers = self._count("block_count", MAX_LAYERS)
        n_embd = self._count("embedding_length")
        heads = self._per_layer("attention.head_count", layers, (0,) * layers)
        head = n_embd // heads[0] if heads[0] else 0
        key = self._optional("attention.key_length", head) if head else 0
        value = self._optional("attention.value_length", head) if head else 0
        experts = self._optional("expert_count", 0, MAX_EXPERTS)
        used = self._per_layer("expert_used_count", layers, (0,) * layers)
        if max(used) > experts:
            raise _no_model(self.header, f"{max(used)} of {experts} experts are used")
        embedding = self.tensors.get("token_embd.weight")
        return ModelShape(
            architecture=self.architecture,
            name=str(self.values.get("general.name", "")),
            n_ctx_train=self._count("context_length"),
            n_embd=n_embd,
            n_vocab=embedding.shape[1] if embedding and len(embedding.shape) > 1 else self._optional("vocab_size", 0),
            n_layer_all=layers,
            n_layer_nextn=self._optional("nextn_predict_layers", 0, layers),
            n_head=heads,
            n_head_kv=self._per_layer("attention.head_count_kv", layers, heads),
            n_ff=self._per_layer("feed_forward_length", layers, (0,) * layers),
            n_expert=experts,
            n_expert_used=used,
            head_k=key,
            head_v=value,
            head_k_swa=self._optional("attention.key_length_swa", key),
            head_v_swa=self._optional("attention.value_length_swa", value),
            n_rot=self._optional("rope.dimension_count", key),
            values=self.values,
            tensors=self.tensors,
            files=self.files,
        )

    def _projector(self) -> ModelShape:
        return ModelShape(
            architecture=self.architecture, name=str(self.values.get("general.name", "")), n_ctx_train=0, n_embd=0,
            n_vocab=0, n_layer_all=0, n_layer_nextn=0, n_head=(), n_head_kv=(), n_ff=(), n_expert=0, n_expert_used=(),
            head_k=0, head_v=0, head_k_swa=0, head_v_swa=0, n_rot=0,
            values=self.values, tensors=self.tensors, files=self.files,
        )  # fmt: skip

    def _count(self, key: str, limit: int = MAX_DIMENSION) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= limit:
            shown = "is missing" if value is None else f"is {str(value)[:40]}"
            raise _no_model(self.header, f"{self.architecture}.{key} {shown}")
        return value

    def _optional(self, key: str, otherwise: int, limit: int = MAX_DIMENSION) -> int:
        if key not in self.values:
            return otherwise
        value = self.values[key]
        return 0 if value == 0 and not isinstance(value, float) else self._count(key, limit)

    def _per_layer(self, key: str, layers: int, otherwise: tuple[int, ...]) -> tuple[int, ...]:
        value = self.values.get(key)
        if isinstance(value, tuple):
            row = value[:layers]
            if len(row) < layers or not all(isinstance(one, int) and 0 <= one < MAX_DIMENSION for one in row):
                raise _no_model(self.header, f"{self.architecture}.{key} has {len(value)} numbers for {layers} layers")
            return tuple(int(one) for one in row)
        return (self._optional(key, 0),) * layers if key in self.values else otherwise
