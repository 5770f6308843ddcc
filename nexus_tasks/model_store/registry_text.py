"""The registry for people, as tables of 80 columns, and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from nexus_tasks.core.text import MISSING, memory, plural
from nexus_tasks.hostlib.terminal_text import all_plain, columns, plain, shortened, wrapped

from .advice import ON_GPUS, Advice, Offer
from .overview import Entry
from .registry import Rating, Variant

MIB = 1 << 20
LIST = ("MODEL", "VARIANTS", "SERVES ON", "LOADS", "REQUESTS", "TOKENS", "RATING")
VARIANTS = ("VARIANT", "SIZE", "GPU MEMORY FOR TOKENS", "PROFILES")
OFFERS = ("HOST", "VARIANT", "SIZE", "TOKENS", "MIB OF GPUS", "")
LONGEST_NAME, LONGEST_HOSTS = 30, 13


def listing(entries: Sequence[Entry], width: int) -> str:
    """One row a model."""
    rows = [
        (
            shortened(entry.name, LONGEST_NAME),
            str(len(entry.known.variants)) if entry.known else MISSING,
            shortened(", ".join(sorted({use.host or use.instance for use in entry.serving})) or MISSING, LONGEST_HOSTS),
            f"{entry.loads:,}",
            f"{entry.requests:,}",
            _count(entry.prompt_tokens + entry.output_tokens),
            MISSING if entry.rating is None else f"{entry.rating:.1f}",
        )
        for entry in entries
    ]
    return "\n".join(_table([LIST, *rows], (1, 3, 4, 5, 6), width))


def page(entry: Entry, width: int) -> str:
    """All that is known of a model."""
    known = entry.known
    parts: list[str] = [plain(entry.name)]
    if known:
        facts = [
            f"license {known.license}" if known.license else None,
            f"of {known.base_model}" if known.base_model else None,
            known.pipeline, "gated" if known.gated else None, f"looked up {known.added_at[:16].replace('T', ' ')} UTC",
            f"commit {known.revision[:12]}" if known.revision else None,
        ]  # fmt: skip
        parts += wrapped(plain("; ".join(fact for fact in facts if fact)), 0, width)
        parts += ["", *_table([VARIANTS, *(_variant(one, entry) for one in known.variants)], (1,), width)]
        problems = {one.problem: one.file for one in known.variants if one.problem}
        parts += [
            line for why, file in problems.items() for line in wrapped(f"no plan of {file}: {why}", 0, width, hang=2)
        ]
    else:
        parts += wrapped("known from records only: nox -s registry -- add looks it up", 0, width)
    used = (
        f"used: {plural(entry.loads, 'load')}, {plural(entry.requests, 'request')}, {entry.prompt_tokens:,} + "
        f"{entry.output_tokens:,} tokens (prompts + answers)"
    )
    if entry.last_used:
        used += f", last {entry.last_used[:16].replace('T', ' ')} UTC"
    parts += ["", *wrapped(used, 0, width, hang=2)]
    parts += wrapped(f"serves on: {', '.join(_place(use) for use in entry.serving) or '(nowhere)'}", 0, width, hang=2)
    parts += ratings_lines(entry.ratings, width)
    return "\n".join(plain(part) for part in parts)


def ratings_lines(ratings: Sequence[Rating], width: int) -> list[str]:
    """Ratings, each with its note, the newest first."""
    lines: list[str] = []
    for one in reversed(ratings):
        lines += wrapped(
            f"{one.rating} of 5 on {one.rated_at[:10]} for {one.model}: {one.note or '(no note)'}", 0, width, hang=2
        )
    return lines


def advice(found: Advice, width: int) -> str:
    """Offers of hosts, the best first."""
    rows = [_offer(one) for one in found.offers]
    return "\n".join(_table([OFFERS, *rows], (2, 3, 4), width))


def _offer(one: Offer) -> tuple[str, ...]:
    how = one.verdict if one.place == ON_GPUS else f"{one.verdict}, {' '.join(one.options[-2:])}"
    return (
        shortened(one.host, 20), shortened(label(one.variant), 18), memory(one.variant.size_bytes / MIB),
        f"{one.ctx_size:,}", " + ".join(f"{mib:,.0f}" for mib in one.gpu_mib), how,
    )  # fmt: skip


def label(variant: Variant) -> str:
    """The quantisation of a variant; the file's name where it has none."""
    return variant.quantization or variant.file


def as_json(entry: Entry) -> dict[str, Any]:
    """A model for programs, as docs/models.md describes it; headers are left out."""
    known: dict[str, Any] | None = None
    if entry.known:
        known = msgspec.to_builtins(entry.known)
        for variant in known["variants"]:
            variant.pop("headers", None)
    return {
        "name": entry.name, "known": known, "profiles": entry.profiles, "loads": entry.loads,
        "requests": entry.requests, "prompt_tokens": entry.prompt_tokens, "output_tokens": entry.output_tokens,
        "last_used": entry.last_used, "serves": [{"host": use.host, "instance": use.instance, "since": use.started_at}
                                                 for use in entry.serving],
        "rating": entry.rating, "ratings": msgspec.to_builtins(entry.ratings),
    }  # fmt: skip


def advice_as_json(found: Advice, unknown: Mapping[str, str]) -> dict[str, Any]:
    """Offers for programs, with the hosts and variants that there are none of."""
    return {
        "offers": [
            {"host": one.host, "file": one.variant.file, "quantization": one.variant.quantization,
             "size_bytes": one.variant.size_bytes, "ctx_size": one.ctx_size, "place": one.place,
             "options": list(one.options), "gpu_mib": list(one.gpu_mib), "verdict": one.verdict}
            for one in found.offers
        ],
        "unplanned": dict(found.unplanned), "unknown_hosts": dict(unknown),
    }  # fmt: skip


def _variant(one: Variant, entry: Entry) -> tuple[str, ...]:
    needs = ", ".join(f"{memory(need.gpu_mib)} for {need.ctx_size:,}" for need in one.needs) or MISSING
    profiles = ", ".join(name for name, file in entry.profiles.items() if file == one.file)
    return shortened(label(one), 24), memory(one.size_bytes / MIB), needs, profiles


def _place(use: Any) -> str:
    return f"{use.host}/{use.instance}" if use.host else str(use.instance)


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**4)):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):,.1f}{unit}"
    return f"{number:,}"


def _table(rows: Sequence[Sequence[str]], right: Sequence[int], width: int) -> list[str]:
    """Lines of a table; what a name has of control sequences ends with its cell."""
    return [shortened(line, width) for line in columns(all_plain(rows), right=right)]
