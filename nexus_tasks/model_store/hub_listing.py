"""Repositories of the Hugging Face hub: what they hold, in which quantisations, and what their page says of them.

    listing = list_repository("ggml-org/gpt-oss-20b-GGUF")
    listing.revision, listing.license, [variant.file for variant in listing.variants]

HF_ENDPOINT and HF_TOKEN count. Which files belong together is by llama.cpp's own naming of split models.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import huggingface_hub
import huggingface_hub.errors

from nexus_tasks.core.errors import UsageError

from .registry import KnownModel, ModelFile, Variant

TIMEOUT_S = 60.0
OF_SEVERAL = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
# For readers only: the types of llama.cpp's quantisations, as the names of files have them.
QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:I?Q[1-8]_(?:[0-9]|K|NL|X{1,2}S|[SM])(?:_(?:X?[SML]|XL|[0-9]))*|TQ[12]_0|BF16|F16|F32|"
    r"MXFP4(?:_MOE)?|NVFP4))(?![A-Za-z0-9])",
    re.IGNORECASE,
)
# Files of a repository that are no model: projectors of images, and what quantisation was weighed by.
BESIDE = re.compile(r"(?:^|[-_./])(?:mmproj|imatrix)(?![A-Za-z0-9])", re.IGNORECASE)


def list_repository(repo: str, revision: str = "main") -> KnownModel:
    """A repository with its variants, the smallest first, without plans: ``added_at`` is empty.

    Raises UsageError where the hub has no such repository or revision, refuses it, or can't be reached.
    """
    errors = huggingface_hub.errors
    token = os.environ.get("HF_TOKEN", "")
    endpoint = os.environ.get("HF_ENDPOINT") or None
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token if token and token.isprintable() else False)
    try:
        info = api.model_info(repo, revision=revision, timeout=TIMEOUT_S, files_metadata=True)
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"the hub's repository {repo} has no revision {revision}", hint="correct revision") from error
    except errors.GatedRepoError as error:
        raise UsageError(f"the hub's repository {repo} is gated", hint=_NEEDS_TOKEN) from error
    except errors.RepositoryNotFoundError as error:
        raise UsageError(f"the hub has no repository {repo}", hint=f"correct its name; or {_NEEDS_TOKEN}") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{repo} is no name of a hub repository", hint="name it as OWNER/NAME") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = _NEEDS_TOKEN if status in (401, 403) else "try again later; what is known already can be used meanwhile"
        raise UsageError(f"the hub answers {status} for {repo}", hint=hint) from error
    except Exception as error:  # huggingface_hub lets the errors of its HTTP client through, and changes clients
        raise UsageError(
            f"the hub {endpoint or 'huggingface.co'} can't be asked: {' '.join(str(error).split())[:200]}",
            hint="try again where it is in reach; what is known already can be used meanwhile",
        ) from error
    return _model(repo, info)


_NEEDS_TOKEN = "accept the repository's terms, and set HF_TOKEN to a token that may read it"  # noqa: S105 - a sentence


def _model(repo: str, info: Any) -> KnownModel:
    card: Any = info.card_data or {}
    listed = [
        ModelFile(name=one.rfilename, size_bytes=one.size or 0, sha256=one.lfs.sha256 if one.lfs else None)
        for one in info.siblings or ()
    ]
    variants = grouped(listed)
    if not variants:
        raise UsageError(
            f"the hub's repository {repo} has no GGUF model", hint="name one that has, as most ...-GGUF do"
        )
    return KnownModel(
        name=repo, source="hub", place=repo, added_at="", revision=info.sha, license=_text(card.get("license")),
        base_model=_text(card.get("base_model")), pipeline=_text(info.pipeline_tag),
        gated=None if info.gated is None else bool(info.gated),
        modified_at=info.last_modified.isoformat() if info.last_modified else None, variants=variants,
    )  # fmt: skip


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return str(value)[:200] if value else None


def grouped(listed: Sequence[ModelFile]) -> list[Variant]:
    """The models among files, the smallest first: files of a split model are one, and one that lacks a file is none."""
    parts: defaultdict[tuple[str, int], dict[int, ModelFile]] = defaultdict(dict)
    for one in listed:
        if not one.name.endswith(".gguf") or BESIDE.search(one.name):
            continue
        split = OF_SEVERAL.fullmatch(one.name)
        key = (split["stem"], int(split["count"])) if split else (one.name, 1)
        parts[key][int(split["number"]) if split else 1] = one
    whole = [
        [found[number] for number in range(1, count + 1)]
        for (_, count), found in parts.items()
        if _is_whole(found, count)
    ]
    return sorted((variant_of(files) for files in whole), key=lambda one: (one.size_bytes, one.file))


def _is_whole(found: Mapping[int, ModelFile], count: int) -> bool:
    return 0 < count <= len(found) and all(number in found for number in range(1, count + 1))


def variant_of(files: Sequence[ModelFile]) -> Variant:
    """A model of these files, in their order, of which nothing but names and sizes is known."""
    name = files[0].name
    # The last one counts: a model's own name may hold one, as in ...-F16-Q4_0.gguf of some converters.
    types = QUANTIZATION.findall(name)
    return Variant(
        file=name, quantization=types[-1].upper() if types else None, size_bytes=sum(one.size_bytes for one in files),
        files=list(files),
    )  # fmt: skip
