"""Models with all that is known of each: what the hub tells, where it serves, how much it was used, its ratings.

    entries = overview(models, uses, ratings, catalogue)
    entry_of("qwen3-8b", entries, catalogue).requests

One model has many names: a repository of the hub, profiles, what instances call it. A use belongs to the model that has
its file's sha256, else to the one that its name is a profile of.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.terminal_text import shortened
from nexus_tasks.views.model_uses import Use, of_jobs_last, serving

from .model_sources import first_file, place_of
from .registry import KnownModel, Rating

Catalogue = Mapping[str, Mapping[str, Any]]


@dataclass
class Entry:
    """A model by the name that stands for all of its names."""

    name: str
    known: KnownModel | None = None
    """What was looked up; None for one that is only known from records or ratings."""
    profiles: dict[str, str] = field(default_factory=dict)
    """Profiles of the catalogue by name, with the file that each names."""
    uses: list[Use] = field(default_factory=list)
    serving: list[Use] = field(default_factory=list)
    """Of each instance that serves it the deployment that left it so."""
    ratings: list[Rating] = field(default_factory=list)

    @property
    def loads(self) -> int:
        """Servers of it that deployments started."""
        return sum(use.loads for use in self.uses)

    @property
    def requests(self) -> int:
        """Requests of benchmarks and batches."""
        return sum(use.requests for use in self.uses)

    @property
    def prompt_tokens(self) -> int:
        return sum(use.prompt_tokens for use in self.uses)

    @property
    def output_tokens(self) -> int:
        return sum(use.output_tokens for use in self.uses)

    @property
    def rating(self) -> float | None:
        """The mean of its ratings; None where there are none."""
        return fmean(one.rating for one in self.ratings) if self.ratings else None

    def lies_at(self, name: str) -> bool:
        """True where a name is the path, or the address, that it was looked up at."""
        return self.known is not None and self.known.place == place_of(name)

    @property
    def last_used(self) -> str | None:
        """The moment of its newest use, in UTC."""
        return max((use.started_at for use in self.uses), default=None)


def overview(
    models: Sequence[KnownModel], uses: Iterable[Use], ratings: Iterable[Rating], catalogue: Catalogue
) -> list[Entry]:
    """All models that are known, used or rated, by name."""
    entries = {model.name: Entry(model.name, model) for model in models}
    by_sha256 = {
        file.sha256: model.name
        for model in models for variant in model.variants for file in variant.files if file.sha256
    }  # fmt: skip

    called: dict[str, str] = {}  # what instances call a model, with the name that stands for it

    def entry(name: str, sha256: str | None = None) -> Entry:
        own = canonical(name, catalogue)
        place = by_sha256.get(sha256 or "") or (called.get(name, own) if own not in entries else own)
        called.setdefault(name, place)
        return entries.setdefault(place, Entry(place))

    counted = [use for use in of_jobs_last(uses) if use.model]
    # A batch names the model as it was served, without its sha256: that of a deployment of this name tells it.
    told = {use.model: use.sha256 for use in counted if use.sha256 in by_sha256}
    for use in counted:
        entry(use.model or "", use.sha256 or told.get(use.model)).uses.append(use)
    for use in serving(counted):
        entry(use.model or "", use.sha256).serving.append(use)
    for rating in ratings:
        entry(rating.model).ratings.append(rating)
    for name, profile in catalogue.items():
        if (place := canonical(name, catalogue)) in entries:
            entries[place].profiles[name] = first_file(profile) or first_file(profile, "url", "urls")
    return sorted(entries.values(), key=lambda one: one.name.lower())


def canonical(name: str, catalogue: Catalogue) -> str:
    """The name that stands for a name's model: of a profile from the hub its repository."""
    repo = catalogue.get(name, {}).get("repo")
    return str(repo) if repo else name.partition(":")[0] if "/" in name and name.endswith(".gguf") else name


def entry_of(name: str, entries: Sequence[Entry], catalogue: Catalogue) -> Entry:
    """The model of a name. Raises UsageError where none is known, with the nearest names."""
    by_name: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_name[entry.name].append(entry)
        for use in entry.uses:
            if use.model and entry not in by_name[use.model]:
                by_name[use.model].append(entry)
    found = by_name.get(canonical(name, catalogue)) or by_name.get(name)
    found = found or [entry for entry in entries if entry.lies_at(name)]
    if found:
        return found[0]
    near = difflib.get_close_matches(name, [*by_name, *catalogue], n=3, cutoff=0.4)
    known = f"the nearest are {', '.join(near)}" if near else "nox -s registry -- list shows what there is"
    raise UsageError(
        f"the registry has no model {shortened(' '.join(name.split()), 100)}",
        hint=f"{known}; nox -s registry -- add MODEL looks one up",
    )
