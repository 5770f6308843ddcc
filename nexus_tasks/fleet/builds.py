"""Builds: the releases of llama.cpp on the hosts, as the deployments left them.

    state = builds.read(Path("results"))
    builds.sentences(state)       ["4 hosts run 3 releases of llama.cpp: b11312 on 3, b11201 on 1.", ...]
    builds.behind(state)          hosts whose release is not the one that was built last for the others

Everything comes from the records of kind ``deployment``. A run with --check builds nothing and counts for nothing.
Records that are older than the rows of type ``release`` tell the name of a host's release, and no more.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import yaml

from nexus_tasks.core.provenance import ROOT
from nexus_tasks.core.text import duration, moment, plural
from nexus_tasks.fleet import deployments
from nexus_tasks.fleet.release_inputs import ALIKE, ANYWHERE, ASPECTS, Inputs, differences
from nexus_tasks.hostlib import advisories
from nexus_tasks.records import store
from nexus_tasks.records.deployment_rows import BuildFacts, ReleaseRow
from nexus_tasks.records.store import DeploymentRecord

ARRIVED = ("there", "built", "taken")
SERVING = ("verified", "restored", "undeclared")  # states of instances that answer requests
NAMED = 3  # so many hosts are named in a sentence
MESSAGE_LENGTH = 120
ADVISORIES = ROOT / "roles" / "llama_cpp" / "vars" / "advisories.yml"


@dataclass(frozen=True)
class Build:
    """One build: ``place`` is the host of the inventory that made it, or what that machine calls itself.

    ``row`` says how (docs/records.md).
    """

    release: str
    place: str
    at: datetime
    row: BuildFacts

    @property
    def seconds(self) -> float:
        return float(self.row.build_seconds or 0)

    @property
    def compilations(self) -> int:
        """Their number, as far as the compiler's cache was asked."""
        return self.row.ccache.hits + self.row.ccache.misses if self.row.ccache else 0

    @property
    def cached(self) -> float | None:
        """The share of them that the cache answered, 0 to 1; None where there was no cache."""
        return self.row.ccache.hits / self.compilations if self.row.ccache and self.compilations else None

    @property
    def size(self) -> int | None:
        """Bytes."""
        return self.row.size or None


@dataclass(frozen=True)
class Host:
    """A host and the release that it runs: that of its last deployment that succeeded, or of the last, if none did.

    ``came`` says how it came there (built, taken, or there: before the records begin), ``came_at`` when. ``releases``
    are all on the host, the newest first; None where no record tells. ``serves`` has the releases that instances serve,
    each with their names.
    """

    name: str
    release: str
    at: datetime
    run_id: str
    succeeded: bool
    came: str
    came_at: datetime | None
    build: Build | None
    releases: list[str] | None
    removed: list[str]
    serves: dict[str, list[str]]


@dataclass(frozen=True)
class Failure:
    """A host that did not get its release. ``place`` is where it was to be built, where that is another host.

    ``mended`` is whether a later deployment brought it one.
    """

    host: str
    at: datetime
    run_id: str
    release: str | None
    place: str | None
    message: str
    mended: bool = False


@dataclass(frozen=True)
class Behind:
    """A host whose release is older than the ``newest`` of the others and differs from it, in words."""

    host: Host
    newest: Host
    words: list[str]


@dataclass(frozen=True)
class Vulnerable:
    """A version with a published vulnerability, and the hosts that run or serve a release of it.

    ``advisory`` is an entry of roles/llama_cpp/vars/advisories.yml; one with ``flags`` counts only where a server has
    one of these, which no record tells.
    """

    version: str
    hosts: list[str]
    advisory: advisories.Advisory

    @property
    def is_severe(self) -> bool:
        """True where it is critical or high and open to any client of any server."""
        return advisories.is_severe(self.advisory) and not self.advisory["flags"]


@dataclass(frozen=True)
class Builds:
    """All that the records tell. ``hosts`` are sorted by name, ``builds`` and ``failures`` oldest first.

    ``builders`` are the hosts that only build for others, each with the releases that it built, the newest first; what
    was removed there no record tells. ``inputs`` says what each release was made of. ``until`` is when the last
    deployment began, ``unread`` holds one line for each record that cannot be read.
    """

    hosts: list[Host]
    builders: dict[str, list[str]]
    inputs: dict[str, Inputs]
    builds: list[Build]
    failures: list[Failure]
    until: datetime | None
    records: int
    unread: list[str]

    @property
    def failing(self) -> list[Failure]:
        """The last of each host that still waits for the release that it should have, sorted by host."""
        last = {failure.host: failure for failure in self.failures if not failure.mended}
        return [last[host] for host in sorted(last)]

    def last_build(self, release: str) -> Build | None:
        """The last build of a release."""
        return next((build for build in reversed(self.builds) if build.release == release), None)


def read(root: Path = store.ROOT) -> Builds:
    """The builds by all deployment records that can be read.

    Raises:
        RecordError: there are none, or the folder cannot be listed.
    """
    return tell(*store.load_readable_deployments(root))


def tell(records: Sequence[DeploymentRecord], unread: Sequence[str] = ()) -> Builds:
    """The builds by these records."""
    ordered = sorted(records, key=lambda record: record.started_at)
    real = [record for record in ordered if not record.header.check]
    builds = _builds(real)
    hosts: dict[str, Host] = {}
    arrivals: dict[tuple[str, str], tuple[str, datetime | None]] = {}
    failures: list[Failure] = []
    for record in real:
        succeeded = {host.host: host.ok for host in record.hosts}
        for row in _rows(record):
            name, before = row.host, hosts.get(row.host)
            if row.how in ("built", "taken") and row.name:
                arrivals[name, row.name] = (row.how, record.started_at)
            if row.how in ARRIVED and row.name:
                failures = [replace(one, mended=True) if one.host == name else one for one in failures]
                came, came_at = arrivals.get((name, row.name), ("there", None))
                host = Host(
                    name, row.name, record.started_at, record.run_id, succeeded.get(name, False), came, came_at,
                    builds.get(_key(row)), row.releases, [], {},
                )  # fmt: skip
                # What a deployment that failed left on the host is not what the host runs.
                hosts[name] = host if host.succeeded or not before or not before.succeeded else before
            elif row.how == "failed":
                failures.append(Failure(name, record.started_at, record.run_id, row.name, row.source, row.error or ""))
            if name in hosts and row.name:
                removed = row.removed or (before.removed if before else [])
                hosts[name] = replace(hosts[name], releases=row.releases, removed=removed)
    serves = _served(ordered)
    return Builds(
        hosts=[replace(host, serves=serves.get(name, {})) for name, host in sorted(hosts.items())],
        builders=_builders(real, builds.values(), hosts),
        inputs={row.name: row.inputs for record in real for row in record.releases if row.name and row.inputs},
        builds=sorted(builds.values(), key=lambda build: build.at),
        failures=failures,
        until=real[-1].started_at if real else None,
        records=len(ordered),
        unread=list(unread),
    )


def sentences(state: Builds) -> list[str]:
    """Three sentences: the versions that run, how the last build went, and what failed or is behind."""
    return [_extent(state), _last_build(state), _amiss(state)]


def tone(state: Builds) -> str:
    """``bad`` while a host waits for its release or serves a version with a severe vulnerability, ``muted`` while one
    is behind the others, else ``good``.
    """
    return (
        "bad"
        if state.failing or any(one.is_severe for one in vulnerable(state))
        else "muted"
        if behind(state)
        else "good"
    )


def behind(state: Builds) -> list[Behind]:
    """The hosts whose release is not the one that was built last for the others, and differs where it need not.

    With hosts of the same kind (machine, backend, architectures) every input is compared, with others the version. The
    instruction sets of a host's processor are its own business.
    """
    found = []
    built = {host.name: host.build.at for host in state.hosts if host.build}
    known = [host for host in state.hosts if host.name in built and host.release in state.inputs]
    for host in known:
        newer = [one for one in known if one.release != host.release and built[one.name] > built[host.name]]
        like = [one for one in newer if _kind(state, one) == _kind(state, host)]
        for others, names in ((like, ALIKE), (newer, ANYWHERE)):
            newest = max(others, key=lambda one: built[one.name], default=None)
            words = differences(state.inputs[host.release], state.inputs[newest.release], names) if newest else []
            if newest and words:
                found.append(Behind(host, newest, words))
                break
    return found


@functools.cache
def known_advisories() -> advisories.Table:
    """The published vulnerabilities that role llama_cpp knows."""
    return advisories.Table.of_variables(yaml.safe_load(ADVISORIES.read_text(encoding="utf-8")))


def vulnerable(state: Builds) -> list[Vulnerable]:
    """The published vulnerabilities of the versions that hosts run or serve, by version; the severe ones first."""
    hosts: dict[str, set[str]] = {}
    for host in state.hosts:
        for release in {host.release, *host.serves}:
            hosts.setdefault(version(state, release), set()).add(host.name)
    found = [
        Vulnerable(ref, sorted(names), advisory)
        for ref, names in sorted(hosts.items())
        for advisory in known_advisories().of_release(ref)
    ]
    return sorted(found, key=lambda one: not one.is_severe)


def listed(state: Builds) -> list[str]:
    """The releases that are on a host and of which more than the name is known or that are run; newest build first."""
    there = {host.release for host in state.hosts}
    there |= {name for host in state.hosts for name in host.releases or () if name in state.inputs}

    def built(name: str) -> tuple[bool, float, str]:
        build = state.last_build(name)
        return build is not None, build.at.timestamp() if build else 0.0, name

    return sorted(there, key=built, reverse=True)


def apart(state: Builds) -> tuple[dict[str, list[str]], list[str]]:
    """Words that set each of the listed releases apart from most; and those that hold for all of them."""
    names = [name for name in listed(state) if name in state.inputs]
    words: dict[str, list[str]] = {name: [] for name in names}
    same = []
    for aspect, (label, text) in ASPECTS.items():
        values = {name: text(state.inputs[name]) for name in names}
        # Of equally many the first counts, which is that of the newest release.
        counted = Counter(value for value in values.values() if value).most_common()
        if not counted:
            continue
        most = counted[0][0]
        if len(counted) == 1 and None not in values.values():
            same.append(f"{label} {most}".strip())
        for name, value in values.items():
            told = aspect == "commit" and words[name]  # by the version, the only aspect before it
            if value and value != most and not told:
                words[name].append(f"{label} {value}, not {most}".strip())
    return words, same


def space(state: Builds, releases: Sequence[str]) -> tuple[int, list[str]]:
    """The bytes of these releases, and the names of those of unknown size."""
    sizes = {name: build.size for name in releases if (build := state.last_build(name))}
    unknown = [name for name in releases if not sizes.get(name)]
    return sum(filter(None, sizes.values())), unknown


def age(span: timedelta) -> str:
    """``3 h``, ``1 day``, ``12 days``."""
    if span < timedelta(days=1):
        return f"{max(span, timedelta()) // timedelta(hours=1)} h"
    return plural(span.days, "day")


def cache(state: Builds, build: Build) -> str:
    """The part of a build that the compiler's cache spared: ``95 % of 820 compilations from the cache``."""
    if build.cached is not None:
        return f"{100 * build.cached:.0f} % of {build.compilations:,} compilations from the cache"
    return "not compiled" if state.inputs[build.release]["source"]["kind"] == "binary" else "without a cache"


def _rows(record: DeploymentRecord) -> list[ReleaseRow]:
    """The rows of type release, and in their place what older records say of a host: the name."""
    told = {row.host for row in record.releases}
    older = [
        ReleaseRow(
            host=host.host,
            name=host.release,
            how="there",
            source=None,
            inputs=None,
            build=None,
            releases=None,
            removed=[],
            error=None,
        )
        for host in record.hosts
        if host.host not in told and host.release and host.ok
    ]
    return [*record.releases, *older]


def _key(row: ReleaseRow) -> tuple[str | None, str, str] | None:
    """The key that tells a build from others; None where the row knows of none."""
    build = row.build
    return (row.name, build.built_on, build.built_at) if build else None


def _builds(records: Sequence[DeploymentRecord]) -> dict[tuple[str | None, str, str] | None, Build]:
    """Every build that a host's release came from, once, however many hosts have it."""
    found: dict[tuple[str | None, str, str] | None, Build] = {}
    for record in records:
        for row in record.releases:
            if row.build is None or row.name is None:
                continue
            key = _key(row)
            place = row.source or (found[key].place if key in found else row.build.built_on)
            found[key] = Build(row.name, place, datetime.fromisoformat(row.build.built_at), row.build)
    return found


def _builders(
    records: Sequence[DeploymentRecord], builds: Iterable[Build], hosts: Iterable[str]
) -> dict[str, list[str]]:
    """The hosts that built for others and are in no deployment themselves, with what they built."""
    rows = [row for record in records for row in record.releases]
    places = {row.source for row in rows if row.build and row.source and row.source != row.host}
    newest = sorted(builds, key=lambda build: build.at, reverse=True)
    return {
        place: list(dict.fromkeys(build.release for build in newest if build.place == place))
        for place in sorted(places.difference(hosts))
    }


def _served(records: Sequence[DeploymentRecord]) -> dict[str, dict[str, list[str]]]:
    """By host the releases that its instances serve, each with their names."""
    found: dict[str, dict[str, list[str]]] = {}
    for instance in deployments.tell(records).instances:
        release = instance.serving.release
        if instance.state in SERVING and release:
            found.setdefault(instance.host, {}).setdefault(str(release), []).append(instance.name)
    return found


def _kind(state: Builds, host: Host) -> tuple[str, str, tuple[str, ...]]:
    inputs = state.inputs[host.release]
    return inputs["machine"], inputs["backend"], tuple(inputs.get("cuda_architectures") or ())


def version(state: Builds, release: str) -> str:
    """The upstream tag of a release; by its name where no record says more."""
    inputs = state.inputs.get(release)
    return str(inputs["ref"]) if inputs else release.partition("-")[0]


def _extent(state: Builds) -> str:
    if not state.hosts:
        return "No deployment has come as far as a release of llama.cpp."
    releases = plural(len({host.release for host in state.hosts}), "release")
    hosts = f"{plural(len(state.hosts), 'host')} run{'s' if len(state.hosts) == 1 else ''}"
    versions = Counter(version(state, host.release) for host in state.hosts).most_common()
    if len(versions) == 1:
        return f"{hosts} {releases} of llama.cpp {versions[0][0]}."
    return f"{hosts} {releases} of llama.cpp: {', '.join(f'{ref} on {count}' for ref, count in versions)}."


def _last_build(state: Builds) -> str:
    if not state.builds:
        return "No record tells of a build."
    build = state.builds[-1]
    hosts = [host for host in state.hosts if host.build == build and host.came == "taken"]
    taken = f"; {plural(len(hosts), 'host')} took it" if hosts else ""
    how = f"{duration(build.seconds)}, {cache(state, build)}{taken}"
    return f"The last build was {build.release} on {build.place} ({moment(build.at)}): {how}."


def _amiss(state: Builds) -> str:
    said = []
    severe = [
        f"{one.version} on {_some(one.hosts)} has {one.advisory['id']}" for one in vulnerable(state) if one.is_severe
    ]
    if severe:
        said.append(f"Open to any client: {_some(severe)}.")
    if state.failing:
        failed = [
            f"{one.host} did not get {one.release or 'a release'} ({moment(one.at)}): {_line(one.message)}"
            for one in state.failing
        ]
        said.append(_sentence(_some(failed)))
    late = [f"{one.host.name} ({', '.join(one.words)})" for one in behind(state)]
    if late:
        said.append(f"Behind what was built last for the others: {_some(late)}.")
    if said:
        return " ".join(said)
    if not state.failures:
        return (
            "No host is behind the others, and no build has failed." if len(state.hosts) > 1 else "No build has failed."
        )
    last = state.failures[-1]
    when = f"the last failure was on {last.host} ({moment(last.at)})"
    return _sentence(f"Nothing is amiss now; {when}: {_line(last.message)}")


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return f"{'; '.join(texts[:NAMED])}{more}"


def _sentence(text: str) -> str:
    return text if text.endswith("…") else f"{text}."


def _line(text: str) -> str:
    """The first line of a text, without the stop at its end."""
    line = text.strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= MESSAGE_LENGTH else f"{line[: MESSAGE_LENGTH - 1].rstrip()}…"
