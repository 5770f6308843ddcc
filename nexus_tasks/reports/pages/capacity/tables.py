"""Tables of the capacity page: its top, servers, quantisations, plan against measurement.

    tables.head(state)
    tables.quantisations(state)

Each takes what :func:`nexus_tasks.fleet.capacity.read` makes of all plans.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexus_tasks.core.text import MISSING, listing, memory, moment, plural
from nexus_tasks.fleet import capacity
from nexus_tasks.fleet.capacity import Capacity, Host, Server
from nexus_tasks.model_store.memory import DOES_NOT_FIT, FITS, GPU_OVERHEAD_MIB, IS_TIGHT
from nexus_tasks.records.plan_rows import ModelRow
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table

TONES = {FITS: "good", IS_TIGHT: "muted", DOES_NOT_FIT: "bad"}
SIZES_SHOWN = 5  # columns of GPUs' sizes
HOSTS_NAMED = 3
LARGE_MIB, LARGE_SHARE = 64.0, 0.25  # a difference over both is set apart, as in proofs


def head(state: Capacity) -> Block:
    """The top of the page: three sentences, and the numbers behind them."""
    tone = capacity.tone(state)
    sizes = [size for host in state.hosts for size in host.machine.gpus_mib]
    wrong = [server for server in state.servers if server.row.verdict == DOES_NOT_FIT]
    kinds = {host.machine.source for host in state.hosts}
    off = [abs(one.off) for one in state.measured if one.off is not None]
    return fill(
        "blocks/capacity_head.html",
        tone=tone,
        badge={"bad": "does not fit", "muted": "not all known", "good": "fits"}[tone],
        hosts=plural(len(state.hosts), "host"),
        when=moment(state.until) if state.until else None,
        sentences=capacity.sentences(state),
        tiles={
            "Hosts": (str(len(state.hosts)), f"memory {listing(sorted(kinds))}" if kinds else "none was planned"),
            "GPUs": (str(len(sizes)), memory(sum(sizes)) if sizes else MISSING),
            "Models": (
                str(len(state.servers)), f"{len(wrong)} do not fit" if wrong else f"{len(state.models)} different",
            ),
            "Measured": (
                str(len(state.measured)),
                f"up to {100 * max(off):.1f} % off" if off else "nothing yet",
            ),
        },
    )  # fmt: skip


def servers(state: Capacity) -> Block:
    """The table of what hosts serve; hosts that are alike share rows."""
    if not state.servers:
        return note("No plan of hosts is on record: nox -s plan -- -l gpu-hosts makes one.")
    columns = [
        Column("Host", numeric=False), Column("Instance", numeric=False), Column("Model", numeric=False),
        Column("Context", "tokens"), Column("Takes", numeric=False), Column("Verdict", numeric=False),
    ]  # fmt: skip
    rows: Rows = []
    for hosts in alike(state):
        for place, server in enumerate(hosts[0].servers):
            rows.append([_names(hosts) if place == 0 else "", *_server(server)])
    return table(
        columns,
        rows,
        "Verdicts are about all that a host serves together; over 85 % of what is there is tight. Hosts that are alike "
        "stand in one row.",
    )


def alike(state: Capacity) -> list[list[Host]]:
    """The hosts in groups of those that are alike."""
    groups: dict[object, list[Host]] = {}
    for host in state.hosts:
        groups.setdefault(host.kind(), []).append(host)
    return list(groups.values())


def _names(hosts: Sequence[Host]) -> Cell:
    machine = hosts[0].machine
    more = len(hosts) - HOSTS_NAMED
    names = ", ".join(host.machine.host for host in hosts[:HOSTS_NAMED]) + (f" and {more} more" if more > 0 else "")
    sizes = " + ".join(memory(size) for size in machine.gpus_mib) or "no GPU"
    return Cell(names, detail=f"{sizes}, {machine.source}")


def _server(server: Server) -> list[Cell | str]:
    row, plan = server.row, server.plan
    verdict = Cell(row.verdict, TONES.get(row.verdict, "muted"), detail=row.problem or "")
    if plan is None:
        return [row.instance, row.model, MISSING, MISSING, verdict]
    taken = [
        f"{memory(device.total_mib)} of {'the host' if number is None else f'GPU {number}'}"
        for number, device in server.devices()
    ]
    slots = "" if plan.context.parallel == 1 else plural(plan.context.parallel, "slot")
    return [row.instance, row.model, Cell(f"{plan.context.n_ctx:,}", detail=slots), ", ".join(taken), verdict]


def quantisations(state: Capacity) -> Block:
    """The table of models: what they are made of, and the largest context of each on the fleet's GPUs."""
    if not state.models:
        return note("No plan tells of a model.")
    sizes = state.gpu_sizes()[-SIZES_SHOWN:]
    columns = [
        Column("Model", numeric=False),
        Column("Quantization", numeric=False),
        Column("Size"),
        Column("Bits", "a weight"),
    ]
    columns += [Column(memory(size), "tokens") for size in sizes]
    rows: Rows = [
        [
            Cell(model.profile or model.name or model.file, detail=model.architecture),
            Cell(model.quantization or next(iter(model.types_mib), MISSING), detail=_types(model)),
            memory(model.size_mib),
            f"{model.size_mib * (1 << 20) * 8 / model.parameters:.2f}" if model.parameters else MISSING,
            *(_largest(state, model, size) for size in sizes),
        ]
        for model in state.models
    ]  # fmt: skip
    return table(
        columns,
        rows,
        "The columns of GPUs have the largest context of all slots that fits one such GPU alone, up to that of the "
        "training, with the options that it was planned with; between planned contexts along straight lines.",
    )


def _types(model: ModelRow) -> str:
    shares = [(name, mib / model.size_mib) for name, mib in model.types_mib.items() if model.size_mib]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= 0.01)


def _largest(state: Capacity, model: ModelRow, size_mib: float) -> Cell:
    """The largest context of any options that the model was planned with."""
    curves = [curve for of, curve in state.curves if of.file == model.file and of.name == model.name]
    if not curves:
        return Cell(MISSING)
    found = [capacity.largest_context(curve, size_mib, GPU_OVERHEAD_MIB) for curve in curves]
    largest = max((tokens for tokens in found if tokens is not None), default=None)
    return Cell("none", "bad") if largest is None else Cell(f"{largest:,}")


def measured(state: Capacity) -> Block:
    """The table of plans beside what the servers' logs said."""
    if not state.measured:
        return note("No server of a plan has been deployed since its buffers are recorded.")
    columns = [
        Column("Server", numeric=False), Column("Device", numeric=False), Column("Part", numeric=False),
        Column("Planned", "MiB"), Column("Measured", "MiB"), Column("Difference", "MiB"),
    ]  # fmt: skip
    rows: Rows = []
    for one in state.measured:
        difference = one.measured_mib - one.plan_mib
        large = abs(difference) > max(LARGE_MIB, LARGE_SHARE * one.plan_mib)
        part = "KV" if one.part == "kv" else one.part
        rows.append(
            [
                one.server, one.device, part, f"{one.plan_mib:,.2f}", f"{one.measured_mib:,.2f}",
                Cell(f"{difference:+,.2f}", "bad" if large else ""),
            ]
        )  # fmt: skip
    return table(
        columns,
        rows,
        "Measured is what the server's log says when it was last proven. Weights of the host are the span of the file "
        "that is mapped. Red: over a quarter and 64 MiB off.",
    )


def footer(state: Capacity) -> Block:
    """The foot: where the page comes from, and what could not be read."""
    unread = "".join(note(f"Left out, unreadable: {line}").html for line in state.unread)
    return Block(unread + fill("blocks/capacity_footer.html", count=state.records).html)
