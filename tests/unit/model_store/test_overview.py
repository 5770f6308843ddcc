"""All that is known of a model, under all of its names."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store.overview import Entry, entry_of, overview
from nexus_tasks.model_store.registry import KnownModel, ModelFile, Rating, Variant
from tests.support.known_models import CATALOGUE, REPO, use

SHA = "ab" * 32
KNOWN = KnownModel(
    name=REPO, source="hub", place=REPO, added_at="",
    variants=[Variant(file="small-Q4_K_M.gguf", quantization="Q4_K_M", size_bytes=1,
                      files=[ModelFile(name="small-Q4_K_M.gguf", size_bytes=1, sha256=SHA)])],
)  # fmt: skip
RATINGS = [
    Rating(id=str(number), model=model, rating=number, note="", rated_at=f"2026-11-2{number}")
    for number, model in ((2, "small"), (5, "renamed"))
]
USES = [
    use(1, "deployment", model="renamed", sha256=SHA, loads=1, serves=True),
    use(2, "benchmark", model="small", requests=3, prompt_tokens=10, output_tokens=20),
    use(3, "batch", model="renamed", requests=4, job="night"),  # by name alone, as its deployment had it
    use(4, "benchmark", model="other", sha256="cd" * 32, requests=9),
]


def entries() -> list[Entry]:
    return overview([KNOWN], USES, RATINGS, CATALOGUE)


def test_uses_and_ratings_under_all_names_of_a_model_are_its_own() -> None:
    other, small = entries()
    assert (other.name, small.name) == ("other", REPO)
    assert (small.loads, small.requests, small.prompt_tokens, small.output_tokens) == (1, 7, 10, 20)
    assert small.rating == 3.5
    assert [(one.host, one.instance) for one in small.serving] == [("rig-1", "main")]
    assert small.profiles == {"small": "small-Q4_K_M.gguf"}
    assert (other.known, other.requests) == (None, 9)


@pytest.mark.parametrize("name", [REPO, "small", "renamed", f"{REPO}:small-Q4_K_M.gguf"])
def test_a_model_is_found_by_any_of_its_names(name: str) -> None:
    assert entry_of(name, entries(), CATALOGUE).name == REPO


@pytest.mark.parametrize("name", ["smal", "", 'it\'s "no" model; rm', "x" * 5000])
def test_one_that_is_not_known_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="the registry has no model") as refused:
        entry_of(name, entries(), CATALOGUE)
    assert "\n" not in refused.value.message


def test_without_what_was_looked_up_the_records_alone_make_the_same_uses() -> None:
    found = {one.name: one.requests for one in overview([], USES, [], CATALOGUE)}
    assert found == {REPO: 3, "renamed": 4, "other": 9}
