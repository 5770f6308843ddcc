"""Tensors and graphs as ggml makes them, without data: shapes, strides, views, and the order of the nodes.

    graph = Graph()
    x = graph.input(F32, 2880, 512)
    graph.expand(mul(norm(x), weight))

The operations are those of ggml.c that llama.cpp's models use, with the shapes that they give there.
"""

from __future__ import annotations

from nexus_tasks.hostlib.tensor_types import TENSOR_TYPES

F32, F16, I32, I64 = 0, 1, 26, 27

Shape = tuple[int, int, int, int]

# ggml-alloc.c: an operation of these may write where one of its sources lies.
IN_PLACE = frozenset(
    {
        "add",
        "add_id",
        "sub",
        "mul",
        "div",
        "scale",
        "unary",
        "rope",
        "rms_norm",
        "soft_max",
        "clamp",
        "fill",
        "sqr",
        "sqrt",
    }
)
VIEWS = frozenset({"view", "reshape", "permute", "transpose"})


class Tensor:
    """One tensor of a graph, or of the model, or of a cache."""

    __slots__ = (
        "allocated", "backend", "children", "input", "nb", "ne", "offset", "op", "output", "resident", "size", "src",
        "type", "view", "views", "visited", "weights",
    )  # fmt: skip

    def __init__(self, op: str, kind: int, ne: Shape, src: list[Tensor] | None = None, nb: Shape | None = None) -> None:
        self.op, self.type, self.ne = op, kind, ne
        self.src: list[Tensor] = src or []
        self.nb = nb or contiguous_strides(kind, ne)
        self.view: Tensor | None = None  # the tensor whose memory this is a view of
        self.resident = -1  # the device where it lies before the graph is computed
        self.weights = self.input = self.output = self.visited = self.allocated = False
        self.backend = -1
        self.children = self.views = self.offset = self.size = 0

    @property
    def row_count(self) -> int:
        return self.ne[1] * self.ne[2] * self.ne[3]

    @property
    def element_count(self) -> int:
        return self.ne[0] * self.row_count

    @property
    def is_contiguous(self) -> bool:
        return self.nb == contiguous_strides(self.type, self.ne)

    def data_bytes(self) -> int:
        """ggml_nbytes: from its first byte to its last."""
        if 0 in self.ne:
            return 0
        _, per_block, block_bytes = TENSOR_TYPES[self.type]
        (n0, n1, n2, n3), (b0, b1, b2, b3) = self.ne, self.nb
        first = block_bytes + (n0 - 1) * b0 if per_block == 1 else n0 * b0 // per_block
        return first + (n1 - 1) * b1 + (n2 - 1) * b2 + (n3 - 1) * b3


class Graph:
    """The nodes of a graph in the order in which they are computed, and its leafs."""

    def __init__(self) -> None:
        self.nodes: list[Tensor] = []
        self.leafs: list[Tensor] = []

    def expand(self, tensor: Tensor) -> Tensor:
        """Add a tensor, after what it needs."""
        if not tensor.visited:
            tensor.visited = True
            for source in tensor.src:
                if not source.visited:
                    self.expand(source)
            (self.leafs if tensor.op == "none" else self.nodes).append(tensor)
        return tensor


# ---- Making tensors


def row_bytes(kind: int, elements: int) -> int:
    """Bytes of a row."""
    _, per_block, block_bytes = TENSOR_TYPES[kind]
    return elements // per_block * block_bytes


def contiguous_strides(kind: int, ne: Shape) -> Shape:
    """The strides of a tensor whose rows lie one behind the other."""
    second = row_bytes(kind, ne[0])
    third = second * ne[1]
    return TENSOR_TYPES[kind].block_bytes, second, third, third * ne[2]


def leaf(kind: int, n0: int, n1: int = 1, n2: int = 1, n3: int = 1) -> Tensor:
    """A tensor that nothing computes."""
    return Tensor("none", kind, (n0, n1, n2, n3))


def graph_input(kind: int, n0: int, n1: int = 1, n2: int = 1, n3: int = 1) -> Tensor:
    """A tensor that is set from outside before the graph is computed."""
    tensor = Tensor("none", kind, (n0, n1, n2, n3))
    tensor.input = True
    return tensor


def like(op: str, *src: Tensor) -> Tensor:
    """The result of an operation that has the first source's shape."""
    return Tensor(op, src[0].type, src[0].ne, list(src))


def viewed(op: str, of: Tensor, ne: Shape, nb: Shape, src: list[Tensor] | None = None) -> Tensor:
    """A view of a tensor's memory."""
    result = Tensor(op, of.type, ne, src or [of], nb)
    result.view = of.view or of
    return result


# ---- Operations


def mul_mat(weight: Tensor, x: Tensor) -> Tensor:
    return Tensor("mul_mat", F32, (weight.ne[1], x.ne[1], x.ne[2], x.ne[3]), [weight, x])


def mul_mat_id(weights: Tensor, x: Tensor, ids: Tensor) -> Tensor:
    return Tensor("mul_mat_id", F32, (weights.ne[1], ids.ne[0], x.ne[2], 1), [weights, x, ids])


def add(a: Tensor, b: Tensor) -> Tensor:
    return like("add", a, b)


def mul(a: Tensor, b: Tensor) -> Tensor:
    return like("mul", a, b)


def unary(x: Tensor) -> Tensor:
    return like("unary", x)


def scale(x: Tensor) -> Tensor:
    return like("scale", x)


def gated(gate: Tensor, up: Tensor | None = None) -> Tensor:
    """GLU of two tensors, or of the halves of one."""
    if up is not None:
        return like("glu", gate, up)
    return Tensor("glu", gate.type, (gate.ne[0] // 2, *gate.ne[1:]), [gate])


def get_rows(table: Tensor, ids: Tensor) -> Tensor:
    kind = I32 if table.type == I32 else F32
    return Tensor("get_rows", kind, (table.ne[0], ids.ne[0], ids.ne[1], ids.ne[2]), [table, ids])


def set_rows(into: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    return viewed("set_rows", into, into.ne, into.nb, [rows, ids, into])


def copy_into(source: Tensor, target: Tensor) -> Tensor:
    return viewed("cpy", target, target.ne, target.nb, [source, target])


def cast(x: Tensor, kind: int) -> Tensor:
    return Tensor("cpy", kind, x.ne, [x])


def cont(x: Tensor, *ne: int) -> Tensor:
    return Tensor("cont", x.type, _four(ne) if ne else x.ne, [x])


def reshape(x: Tensor, *ne: int) -> Tensor:
    return viewed("reshape", x, _four(ne), contiguous_strides(x.type, _four(ne)))


def view(x: Tensor, ne: tuple[int, ...], strides: tuple[int, ...] = ()) -> Tensor:
    """A view by the strides of its second and further dimensions; those not given follow."""
    full = _four(ne)
    nb = [TENSOR_TYPES[x.type].block_bytes, *(strides or (row_bytes(x.type, full[0]),))]
    while len(nb) < 4:
        nb.append(nb[-1] * full[len(nb) - 1])
    return viewed("view", x, full, (nb[0], nb[1], nb[2], nb[3]))


def permute(x: Tensor, *axes: int) -> Tensor:
    """Dimension i of the source becomes dimension axes[i]."""
    ne, nb = [0] * 4, [0] * 4
    for source, target in enumerate(axes):
        ne[target], nb[target] = x.ne[source], x.nb[source]
    return viewed("permute", x, (ne[0], ne[1], ne[2], ne[3]), (nb[0], nb[1], nb[2], nb[3]))


def transpose(x: Tensor) -> Tensor:
    ne, nb = x.ne, x.nb
    return viewed("transpose", x, (ne[1], ne[0], ne[2], ne[3]), (nb[1], nb[0], nb[2], nb[3]))


def concat(a: Tensor, b: Tensor, axis: int) -> Tensor:
    ne = list(a.ne)
    ne[axis] += b.ne[axis]
    return Tensor("concat", a.type, (ne[0], ne[1], ne[2], ne[3]), [a, b])


def repeat(x: Tensor, *ne: int) -> Tensor:
    return Tensor("repeat", x.type, _four(ne), [x])


def top_k(x: Tensor, count: int) -> Tensor:
    """ggml_argsort_top_k: a view of the first of all, sorted."""
    order = Tensor("argsort", I32, x.ne, [x])
    return view(order, (count, *order.ne[1:]), order.nb[1:])


def sum_rows(x: Tensor) -> Tensor:
    return Tensor("sum_rows", x.type, (1, *x.ne[1:]), [x])


def pad(x: Tensor, elements: int) -> Tensor:
    return Tensor("pad", x.type, (x.ne[0] + elements, *x.ne[1:]), [x])


def rope(x: Tensor, positions: Tensor, factors: Tensor | None = None) -> Tensor:
    return like("rope", x, positions, *([factors] if factors else []))


def flash_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor | None) -> Tensor:
    src = [q, k, v, *(one for one in (mask, sinks) if one)]
    return Tensor("flash_attn", F32, (v.ne[0], q.ne[2], q.ne[1], q.ne[3]), src)


def ssm_conv(x: Tensor, kernel: Tensor) -> Tensor:
    return Tensor("ssm_conv", F32, (kernel.ne[1], x.ne[0] - kernel.ne[0] + 1, x.ne[2], 1), [x, kernel])


def ssm_scan(state: Tensor, x: Tensor, *others: Tensor, snapshots: int) -> Tensor:
    """Outputs and new states in one row; the last of ``others`` are the ids of the states."""
    states = snapshots * state.ne[0] * state.ne[1] * state.ne[2] * others[-1].ne[0]
    return Tensor("ssm_scan", F32, (x.element_count + states, 1, 1, 1), [state, x, *others])


def gated_delta_net(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, beta: Tensor, state: Tensor, snapshots: int
) -> Tensor:
    size, heads, n_tokens, n_seqs = v.ne
    rows = n_tokens * n_seqs + snapshots * size * n_seqs
    return Tensor("gated_delta_net", F32, (size * heads, rows, 1, 1), [q, k, v, gate, beta, state])


def soft_max(x: Tensor, *others: Tensor | None) -> Tensor:
    return like("soft_max", x, *(one for one in others if one))


def _four(ne: tuple[int, ...]) -> Shape:
    n0, n1, n2, n3 = (*ne, 1, 1, 1)[:4]
    return n0, n1, n2, n3
