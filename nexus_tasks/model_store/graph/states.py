"""States of recurrent layers in a graph: build_rs of llama-graph.cpp, and the layers that use them.

inputs = state_inputs(net)
x = mamba2(net, inputs, states, "blk.0", x, sizes)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import tensors as t
from .network import Network
from .tensors import F32, I32, Tensor

Getter = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class StateInputs:
    """The ids of states: of all sequences, of those of the batch, and of all but the first."""

    all: Tensor
    main: Tensor
    tail: Tensor


@dataclass(frozen=True)
class StateSizes:
    """The sizes of a state space model's layer."""

    kernel: int
    inner: int
    state: int
    groups: int
    heads: int
    snapshots: int = 1
    """States that are kept of each sequence: the last, and those to go back to."""

    @property
    def channels(self) -> int:
        """Of the convolution."""
        return self.inner + 2 * self.groups * self.state


def state_inputs(net: Network) -> StateInputs:
    """build_rs_inp."""
    ids = t.graph_input(I32, net.batch.n_seqs)
    return StateInputs(ids, t.view(ids, (net.batch.n_seqs,)), t.view(ids, (net.batch.n_seqs - 1,)))


def gathered(net: Network, inputs: StateInputs, state: Tensor, getter: Getter | None = None) -> Tensor:
    """build_rs: the states of the batch's sequences, by ``getter`` where one reads them in place."""
    width, n_seqs = state.ne[0], net.batch.n_seqs
    states = t.reshape(state, width, state.ne[1])
    zeroed = t.view(states, (width,))
    net.graph.expand(t.viewed("scale", zeroed, zeroed.ne, zeroed.nb))
    every = t.get_rows(states, inputs.tail if getter else inputs.all)
    result = getter(states, inputs.main) if getter else t.view(every, (width, n_seqs), (every.nb[1],))
    net.graph.expand(result)
    rest = t.view(every, (width, 0), (every.nb[1],))
    net.graph.expand(t.copy_into(rest, t.view(state, (width, 0), (state.nb[1],))))
    return result


def keep_convolution(net: Network, inputs: StateInputs, state: Tensor, x: Tensor, sizes: StateSizes) -> Tensor:
    """The inputs of a convolution: those of before, and these; the last are kept."""
    n_seqs, before = net.batch.n_seqs, sizes.kernel - 1
    old = t.reshape(gathered(net, inputs, state), before, sizes.channels, n_seqs)
    joined = t.concat(old, t.transpose(x), 0)
    keep_last(net, state, joined, before, sizes)
    return joined


def keep_last(net: Network, state: Tensor, joined: Tensor, before: int, sizes: StateSizes) -> None:
    """Copy the last inputs of a convolution into its state, once for each snapshot."""
    n_seqs, channels = net.batch.n_seqs, joined.ne[1]
    for _ in range(sizes.snapshots):
        last = t.view(joined, (before, channels, n_seqs), joined.nb[1:3])
        net.graph.expand(t.copy_into(last, t.view(state, (before * channels, n_seqs), (state.nb[1],))))


def mamba(
    net: Network, inputs: StateInputs, states: tuple[Tensor, ...], block: str, x: Tensor, sizes: StateSizes, layer: int
) -> Tensor:
    """build_mamba_layer: one head for each channel."""
    n_seqs, inner, before, rank = net.batch.n_seqs, sizes.inner, sizes.kernel - 1, sizes.heads
    per_seq = net.batch.n_tokens // n_seqs
    old = t.reshape(gathered(net, inputs, states[0]), before, inner, n_seqs)
    mixed = net.linear(t.reshape(x, x.ne[0], per_seq, n_seqs), f"{block}.ssm_in")
    x, z = (t.view(mixed, (inner, per_seq, n_seqs), mixed.nb[1:3]) for _ in "xz")
    joined = t.concat(old, t.transpose(x), 0)
    last = t.view(joined, (before, inner, n_seqs), joined.nb[1:3])
    net.graph.expand(t.copy_into(last, t.view(states[0], (before * inner * n_seqs,))))
    x = t.ssm_conv(joined, net.need(f"{block}.ssm_conv1d"))
    x = t.unary(t.add(x, net.required(f"{block}.ssm_conv1d.bias")))
    parts = net.linear(x, f"{block}.ssm_x")
    dt = t.view(parts, (rank, per_seq, n_seqs), parts.nb[1:3])
    b, c = (t.view(parts, (sizes.state, 1, per_seq, n_seqs), (4 * sizes.state, *parts.nb[1:3])) for _ in "bc")
    if net.w(f"{block}.ssm_dt_norm"):
        dt, b, c = (net.norm(one, f"{block}.ssm_{name}_norm", layer) for one, name in ((dt, "dt"), (b, "b"), (c, "c")))
    else:
        dt = t.cont(dt)
    dt = net.linear_with_bias(dt, f"{block}.ssm_dt")
    plain, x = x, t.reshape(x, 1, inner, per_seq, n_seqs)

    def scanned(rows: Tensor, ids: Tensor) -> Tensor:
        state = t.reshape(rows, sizes.state, 1, inner, states[1].ne[1])
        return t.ssm_scan(state, x, dt, net.required(f"{block}.ssm_a"), b, c, ids, snapshots=1)

    y_all = gathered(net, inputs, states[1], scanned)
    new = t.view(y_all, (sizes.state * inner * n_seqs,))
    net.graph.expand(t.copy_into(new, t.view(states[1], (sizes.state * inner * n_seqs,))))
    y = t.view(y_all, (inner, per_seq, n_seqs), x.nb[2:4])
    y = t.add(y, t.mul(plain, net.required(f"{block}.ssm_d")))
    y = net.linear(t.gated(t.cont(z), y), f"{block}.ssm_out")
    return t.reshape(y, y.ne[0], per_seq * n_seqs)


def mamba2(
    net: Network, inputs: StateInputs, states: tuple[Tensor, ...], block: str, x: Tensor, sizes: StateSizes, layer: int
) -> Tensor:
    """build_mamba2_layer."""
    n_seqs = net.batch.n_seqs
    per_seq, heads, head = net.batch.n_tokens // n_seqs, sizes.heads, sizes.inner // sizes.heads
    old = t.reshape(gathered(net, inputs, states[0]), sizes.kernel - 1, sizes.channels, n_seqs)
    mixed = net.linear(x, f"{block}.ssm_in")
    mixed = t.reshape(mixed, mixed.ne[0], per_seq, n_seqs)
    z = t.view(mixed, (head, heads, per_seq, n_seqs), (head * 4, *mixed.nb[1:3]))
    xbc = t.view(mixed, (sizes.channels, per_seq, n_seqs), mixed.nb[1:3])
    dt = t.view(mixed, (heads, per_seq, n_seqs), mixed.nb[1:3])
    joined = t.concat(old, t.transpose(xbc), 0)
    keep_last(net, states[0], joined, sizes.kernel - 1, sizes)
    xbc = t.ssm_conv(joined, net.need(f"{block}.ssm_conv1d"))
    bias = net.bias(f"{block}.ssm_conv1d")
    xbc = t.unary(t.add(xbc, bias) if bias else xbc)
    x = t.view(xbc, (head, heads, per_seq, n_seqs), (head * 4, *xbc.nb[1:3]))
    b, c = (t.view(xbc, (sizes.state, sizes.groups, per_seq, n_seqs), (sizes.state * 4, *xbc.nb[1:3])) for _ in "bc")
    dt = t.add(t.cont(dt), net.required(f"{block}.ssm_dt.bias"))

    def scanned(rows: Tensor, ids: Tensor) -> Tensor:
        state = t.reshape(rows, sizes.state, head, heads, states[1].ne[1])
        a = net.required(f"{block}.ssm_a")
        return t.ssm_scan(state, x, dt, a, b, c, ids, snapshots=sizes.snapshots)

    y_all = gathered(net, inputs, states[1], scanned)
    _keep_states(net, states[1], y_all, sizes)
    y = t.view(y_all, (head, heads, per_seq, n_seqs), (x.nb[1], heads * x.nb[1], per_seq * heads * x.nb[1]))
    y = t.gated(t.cont(z), t.add(y, t.mul(x, net.required(f"{block}.ssm_d"))))
    if net.w(f"{block}.ssm_norm"):
        y = t.reshape(y, sizes.inner // sizes.groups, sizes.groups, per_seq, n_seqs)
        y = net.norm(y, f"{block}.ssm_norm", layer)
    return net.linear(t.reshape(y, sizes.inner, per_seq * n_seqs), f"{block}.ssm_out")


def _keep_states(net: Network, state: Tensor, y: Tensor, sizes: StateSizes) -> None:
    size, n_seqs, kept = sizes.state * sizes.inner, net.batch.n_seqs, sizes.snapshots
    row = t.row_bytes(F32, size)
    new = t.view(y, (size, n_seqs, kept), (row, row * n_seqs))
    net.graph.expand(t.copy_into(new, t.view(state, (size, n_seqs, kept), (state.nb[1], row * n_seqs))))


def delta_net(
    net: Network, state: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, beta: Tensor, old: Tensor, kept: int
) -> Tensor:
    """build_recurrent_attn with the fused operation, which CUDA has."""
    size, heads, per_seq, n_seqs = v.ne
    result = t.gated_delta_net(q, k, v, gate, beta, old, kept)
    row = t.row_bytes(F32, size)
    output = t.view(result, (size, heads, per_seq, n_seqs), (row, row * heads, row * heads * per_seq))
    whole = size * size * heads
    if kept == 1:
        new = t.view(result, (size, size, heads, n_seqs), (row, row * size, row * size * heads))
        target = t.view(state, (whole, n_seqs), (state.nb[1],))
    else:
        new = t.view(result, (whole, n_seqs, kept), (4 * whole, 4 * whole * n_seqs))
        target = t.view(state, (whole, n_seqs, kept), (state.nb[1], state.nb[1] * n_seqs))
    net.graph.expand(t.copy_into(new, target))
    return output


def shortconv(net: Network, inputs: StateInputs, state: Tensor, block: str, x: Tensor, snapshots: int) -> Tensor:
    """The gated short convolution of LFM2."""
    n_seqs = net.batch.n_seqs
    per_seq, width = net.batch.n_tokens // n_seqs, x.ne[0]
    before = state.ne[0] // width
    mixed = net.linear(t.reshape(x, width, per_seq, n_seqs), f"{block}.shortconv.in_proj")
    b, c, inner = (t.view(mixed, (width, per_seq, n_seqs), mixed.nb[1:3]) for _ in "bcx")
    bx = t.transpose(t.mul(b, inner))
    old = t.reshape(gathered(net, inputs, state), before, width, n_seqs)
    joined = t.concat(old, bx, 0)
    keep_last(net, state, joined, before, StateSizes(before + 1, width, 0, 0, 1, snapshots))
    y = t.mul(c, t.ssm_conv(joined, net.need(f"{block}.shortconv.conv")))
    y = net.linear(y, f"{block}.shortconv.out_proj")
    return t.reshape(y, y.ne[0], per_seq * n_seqs)
