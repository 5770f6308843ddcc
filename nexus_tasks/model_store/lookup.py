"""A model looked up for the registry: on the hub with all its variants, or at a path or an address.

model = look_up("qwen3-8b", catalogue_of())         # the repository of that profile, all of its variants
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.model_shape import ModelShape

from .hub_listing import list_repository, variant_of
from .model_sources import ON_WEB, open_hub_file, open_model, place_of
from .registry import KnownModel, ModelFile, Variant
from .variants import describe, shape_of_variant

REPOSITORY = re.compile(r"\w[\w.-]{0,95}/\w[\w.-]{0,95}(?<!\.gguf)")  # longer names the hub has none of


def look_up(
    name: str,
    catalogue: Mapping[str, Mapping[str, Any]],
    known: Sequence[KnownModel] = (),
    progress: Callable[[str], object] = lambda _: None,
) -> KnownModel:
    """A model as hub or file tell of it, each variant with its plans.

    The model of a path or an address has its file's name, and where a known one at another place has that, its place.

    Args:
        name: a repository of the hub, a profile, a path or an address.
        known: models that were looked up before: of files that are still the same nothing is read again.
        progress: is told of each file before its header is read.

    Raises UsageError where there is none, or where it can't be reached.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    profile = catalogue.get(name, {})
    repo = profile.get("repo") or (name.partition(":")[0] if _is_repository(name) else None)
    if repo:
        model = list_repository(str(repo), str(profile.get("revision", "main")))
        before = next((one for one in known if one.name == model.name), model)
        described = [_of_hub(variant, model, before, progress) for variant in model.variants]
        return msgspec.structs.replace(model, added_at=now, variants=described)
    progress(name)
    shape = open_model(name, catalogue)
    first = shape.files[0].name
    place = place_of(first)
    listed = [ModelFile(name=header.name.rpartition("/")[2], size_bytes=header.size_bytes) for header in shape.files]
    own_name = name
    if name not in catalogue:
        own_name = re.sub(r"(-00001-of-\d{5})?\.gguf$", "", listed[0].name)
        if own_name in catalogue or any(one.name == own_name and one.place != place for one in known):
            own_name = place
    return KnownModel(
        name=own_name, source="url" if ON_WEB.match(first) else "path", place=place, added_at=now,
        variants=[describe(variant_of(listed), lambda _: shape)],
    )  # fmt: skip


def _is_repository(name: str) -> bool:
    at, _, file = name.partition(":")
    return bool(REPOSITORY.fullmatch(at)) and (not file or file.endswith(".gguf")) and not Path(name).exists()


def _of_hub(variant: Variant, model: KnownModel, before: KnownModel, progress: Callable[[str], object]) -> Variant:
    """A variant described; where its file is none that can be read, with the reason."""
    progress(variant.file)
    same = [one for one in before.variants if one.headers and one.files == variant.files and _has_hashes(one)]
    if same:
        shape = shape_of_variant(same[0])
        return describe(variant, lambda _: shape)  # the rules of plans may have changed

    def open_shape(one: Variant) -> ModelShape:
        return open_hub_file(model.place, one.file, model.revision or "main")

    try:
        return describe(variant, open_shape)
    except UsageError as error:
        return msgspec.structs.replace(variant, problem=error.message)


def _has_hashes(variant: Variant) -> bool:
    return all(one.sha256 for one in variant.files)
