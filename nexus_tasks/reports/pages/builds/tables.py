"""Tables of the builds' page: its top, which host runs which release, what is amiss, releases, space, failures.

    tables.head(state)
    tables.releases(state)

Each takes what :func:`nexus_tasks.fleet.builds.read` makes of all deployments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nexus_tasks.core.text import MISSING, duration, memory, minute, moment, plural
from nexus_tasks.fleet import builds, release_inputs
from nexus_tasks.fleet.builds import Builds, Host, Vulnerable
from nexus_tasks.hostlib.advisories import ATTACKERS
from nexus_tasks.reports.markup import Block, Cell, Column, Rows, fill, note, table

HOSTS_NAMED = 4  # more of them, and a cell of a table says how many


def head(state: Builds) -> Block:
    """The top of the page: three sentences, and the numbers behind them."""
    late, last = builds.behind(state), state.builds[-1] if state.builds else None
    tone = builds.tone(state)
    releases = {host.release for host in state.hosts}
    versions = sorted({builds.version(state, release) for release in releases}, reverse=True)
    return fill(
        "blocks/builds_head.html",
        tone=tone,
        badge={"bad": "not ok", "muted": "behind", "good": "ok"}[tone],
        hosts=plural(len(state.hosts), "host"),
        when=moment(state.until) if state.until else None,
        sentences=builds.sentences(state),
        tiles={
            "Hosts": (str(len(state.hosts)), f"{len(late)} behind the others" if late else "none behind"),
            "Releases": (str(len(releases)), ", ".join(versions[:HOSTS_NAMED]) or "none yet"),
            "Last build": (duration(last.seconds), f"on {last.place}") if last else (MISSING, "none on record"),
            "Failed": (
                str(len(state.failing)),
                f"{plural(len(state.failures), 'failure')} on record" if state.failures else "none has failed",
            ),
        },
    )


def hosts(state: Builds) -> Block:
    """The table of hosts, each with the release that it runs."""
    if not state.hosts:
        return note("No deployment has come as far as a release of llama.cpp.")
    return fill(
        "blocks/builds_hosts.html",
        hosts=[_host(state, host) for host in state.hosts] + [_builder(state, name) for name in state.builders],
        caption="The release of the last deployment of each host that succeeded. A native release needs a processor "
        "like that of the host that built it; a portable one chooses its code when it starts. Age is from the build to "
        "the last deployment of any host.",
    )


def amiss(state: Builds) -> Block:
    """Sections about what failed, published vulnerabilities, and hosts that are behind; empty where all is well."""
    parts = []
    if state.failing:
        failing = [
            {
                "host": one.host,
                "what": f"no {one.release}" if one.release else "no release",
                "when": moment(one.at),
                "message": one.message,
                "run_id": one.run_id,
            }
            for one in state.failing
        ]
        parts.append(fill("blocks/builds_failed.html", hosts=failing).html)
    holes = builds.vulnerable(state)
    if holes:
        parts.append(fill("blocks/builds_vulnerable.html", table=_vulnerable(holes).html).html)
    late = builds.behind(state)
    if late:
        columns = [Column(title, numeric=False) for title in ("Host", "Has", "Built later", "What differs")]
        rows: Rows = [
            [
                one.host.name,
                one.host.release,
                f"{one.newest.release} for {one.newest.name}",
                Cell("; ".join(one.words), "bad"),
            ]
            for one in late
        ]
        shown = table(
            columns,
            rows,
            "Compared with the release that was built last for the others: of the same kind (machine, backend, "
            "architectures) by all that a release is made of, of another kind by version.",
        )
        parts.append(fill("blocks/builds_behind.html", table=shown.html).html)
    return Block("".join(parts))


def _vulnerable(holes: Sequence[Vulnerable]) -> Block:
    """The published vulnerabilities of what runs."""
    titles = ("Version", "Hosts", "Vulnerability", "Severity", "Open to", "Fixed in")
    rows: Rows = [
        [
            one.version,
            _some(one.hosts),
            f"{one.advisory['id']}: {one.advisory['title']}",
            Cell(one.advisory["severity"], "bad" if one.is_severe else ""),
            ", ".join(
                [
                    ATTACKERS[one.advisory["attacker"]],
                    *([f"where {' or '.join(one.advisory['flags'])} is set"] if one.advisory["flags"] else []),
                ]
            ),
            f"b{one.advisory['fixed']}" if one.advisory["fixed"] else "no known build",
        ]
        for one in holes
    ]
    return table(
        [Column(title, numeric=False) for title in titles],
        rows,
        "By roles/llama_cpp/vars/advisories.yml when this page was made. A server with one that is critical or high "
        "and open to any client is not deployed beyond loopback, unless llama_cpp_accept_advisories names it.",
    )


def releases(state: Builds) -> Block:
    """The releases on the hosts, and what sets each apart from the others."""
    names = builds.listed(state)
    if not names:
        return note("No release is on record.")
    words, same = builds.apart(state)
    rows = []
    for name in names:
        build = state.last_build(name)
        known = name in state.inputs
        rows.append(
            {
                "name": name,
                "built": f"{minute(build.at)} on {build.place}" if build else "",
                "runs_on": _some([host.name for host in state.hosts if host.release == name]),
                "kept_on": _some(
                    [host.name for host in state.hosts if host.release != name and name in (host.releases or ())]
                ),
                "seconds": duration(build.seconds) if build else MISSING,
                "cached": f"{100 * build.cached:.0f} %" if build and build.cached is not None else "",
                "words": words.get(name, []),
                "plain": "nothing" if known else "only its name is on record",
            }
        )
    caption = "Compared with what most of them have, or with the newest where there is no most."
    if same:
        caption = f"{caption} The same in all: {', '.join(same)}." if len(words) > 1 else f"Made of: {', '.join(same)}."
    return fill("blocks/builds_releases.html", releases=rows, caption=caption)


def space(state: Builds) -> Block:
    """The table of what the releases on each host take up."""
    if not state.hosts:
        return Block("")
    columns = [
        Column("Host", numeric=False),
        Column("Releases"),
        Column("Space"),
        Column("Kept beside the one it runs", numeric=False),
        Column("Removed last", numeric=False),
    ]
    there = [(host.name, host.releases, host.release, host.removed) for host in state.hosts]
    there += [(name, built, "", []) for name, built in state.builders.items()]
    rows: Rows = []
    for name, names, running, removed in there:
        taken, unknown = builds.space(state, names or ())
        rows.append(
            [
                name,
                str(len(names)) if names is not None else MISSING,
                (memory(taken / 2**20) + (f" and {len(unknown)} unknown" if unknown else "")) if taken else MISSING,
                ", ".join(one for one in names or () if one != running) or MISSING,
                ", ".join(removed) or MISSING,
            ]
        )
    return table(
        columns,
        rows,
        "Space is what the files of the releases take up, without models, build folders and the compiler's cache. A "
        "release that was built before the records begin is of unknown size. Of a host that only builds for others, "
        "all that it built is counted: what was removed there since, no record tells.",
    )


def failures(state: Builds, limit: int) -> Block:
    """The last failures, newest first, mended ones too."""
    shown = state.failures[-limit:][::-1] if limit > 0 else []
    if not shown:
        return note("No build has failed.", "good") if not state.failures else Block("")
    columns = [Column("When", "UTC", numeric=False)]
    columns += [Column(title, numeric=False) for title in ("Host", "Release", "Mended", "Message")]
    rows: Rows = [
        [
            minute(one.at),
            f"{one.host}, on {one.place}" if one.place else one.host,
            one.release or MISSING,
            Cell("since then", "good") if one.mended else Cell("no", "bad"),
            one.message.partition("\n")[0],
        ]
        for one in shown
    ]
    left_out = len(state.failures) - len(rows)
    return table(columns, rows, f"The last {len(rows)} of {len(state.failures)}." if left_out else "")


def footer(state: Builds) -> Block:
    """The foot: where the page comes from, and what could not be read."""
    unread = "".join(note(f"Left out, unreadable: {line}").html for line in state.unread)
    return Block(unread + fill("blocks/fleet_footer.html", count=state.records).html)


def _host(state: Builds, host: Host) -> dict[str, Any]:
    inputs, build = state.inputs.get(host.release), host.build or state.last_build(host.release)
    place = build.place if build else ""
    when = f" {host.came_at:%Y-%m-%d}" if host.came_at else ""
    came = {"built": f"built here{when}", "taken": f"from {place}{when}"}.get(host.came, "")
    others = {release: names for release, names in host.serves.items() if release != host.release}
    trouble = [
        f"{', '.join(names)} serve{'s' if len(names) == 1 else ''} {release}" for release, names in others.items()
    ]
    return {
        "name": host.name,
        "instances": ", ".join(sorted(name for names in host.serves.values() for name in names)),
        "release": host.release,
        "came": came or (f"built on {place}" if place else ""),
        "trouble": trouble if host.succeeded else [*trouble, "no deployment with it has succeeded"],
        "version": builds.version(state, host.release),
        "commit": inputs["commit"][:9] if inputs else "",
        "backend": f"{release_inputs.backend(inputs)} {inputs.get('cuda_toolkit') or ''}".strip()
        if inputs
        else MISSING,
        "architectures": ", ".join(inputs.get("cuda_architectures") or ()) if inputs else "",
        "processor": (release_inputs.portable(inputs) if inputs else None) or MISSING,
        "machine": inputs["machine"] if inputs else "",
        "page": (inputs.get("web_page") if inputs else None) or MISSING,
        "size": memory(build.size / 2**20) if build and build.size else MISSING,
        "age": builds.age(state.until - build.at) if build and state.until else MISSING,
    }


def _builder(state: Builds, name: str) -> dict[str, Any]:
    served = [host.name for host in state.hosts if host.build and host.build.place == name]
    return {
        **dict.fromkeys(("instances", "commit", "architectures", "machine"), ""),
        **dict.fromkeys(("release", "version", "backend", "processor", "page", "size", "age"), MISSING),
        "name": name,
        "came": f"builds for {_some(served)}" if served else "builds for others",
        "trouble": [],
    }


def _some(names: list[str]) -> str:
    left_out = len(names) - HOSTS_NAMED
    return ", ".join(names[:HOSTS_NAMED]) + (f" and {left_out} more" if left_out > 0 else "") or MISSING
