"""Profiles of llama_models: what is refused before a host is touched."""

from __future__ import annotations

import pytest

from plugins.plugin_utils.model_profiles import problems

SHA256 = "0" * 64


def told(token: str | None = None, **profile: str) -> str:
    """What is said of a profile; nothing where it is right."""
    lines = problems(["mine"], {"mine": profile}, token)
    assert len(lines) < 2
    assert all(line.isprintable() for line in lines)
    return "".join(lines)


@pytest.mark.parametrize(
    "profile",
    [
        {"url": "https://host/m.gguf?sig=1", "sha256": SHA256},
        {"url": "https://me:pw@host/My Größe.gguf", "sha256": SHA256},
        {"repo": "some/repo", "file": "folder/m.gguf"},
        {"repo": "some/repo", "file": "m-1-of-3.gguf"},
        {"repo": "some/repo", "file": "m-00001-of-00001.gguf"},
        {"path": "/models/m-00001-of-00003.gguf"},
    ],
)
def test_what_can_be_had_is_right(profile: dict[str, str]) -> None:
    assert told(**profile) == ""


@pytest.mark.parametrize(
    "url", ["https://me:sesame@host:x/m.gguf", "https://me:sesame/@host/m.gguf", "ftp://me:sesame@host/m.gguf"]
)
def test_an_address_that_cannot_be_asked_for_is_refused_without_repeating_it(url: str) -> None:
    line = told(url=url, sha256=SHA256)
    assert line.startswith("model mine in llama_models has a url that can't be asked for: it is no http(s) address of")
    assert "sesame" not in line


def test_no_line_repeats_what_an_address_holds_beside_the_place() -> None:
    address = "https://me:sesame@host/m.gguf?sig=sesame"
    lines = [told(url=f"{address}\nx", sha256=SHA256), told(repo=address, file="m.gguf"), told(path=address)]
    assert [line.partition(" has ")[2].partition(": ")[0] for line in lines] == [
        "a url, which is not one line of text", "repo", "path",
    ]  # fmt: skip
    assert "sesame" not in "".join(lines)


@pytest.mark.parametrize(
    "file",
    [
        "Q4/m-00001-of-00003.gguf", "m-00002-of-00003.GGUF", "m.gguf.part1of2", "m.gguf.part2of2", "m.gguf-split-a",
        "m.gguf-part-b",
    ],
)  # fmt: skip
def test_one_file_of_several_is_refused_before_it_is_downloaded(file: str) -> None:
    says = "has one file of several in {}: put all of them into a folder of the host, join those that were cut"
    assert says.format("file") in told(repo="some/repo", file=file)
    assert says.format("url") in told(url=f"https://host/{file}?sig=sesame#x", sha256=SHA256)
    assert "sesame" not in told(url=f"https://host/{file}?sig=sesame#x", sha256=SHA256)


def test_a_token_that_cannot_be_sent_counts_where_the_hub_is_asked() -> None:
    line = told("hf_sesame\r", repo="some/repo", file="m.gguf")
    assert line.startswith("model mine comes from the hub, and HF_TOKEN in the controller's environment has a line end")
    assert "sesame" not in line
    assert told("hf_sesame\r", path="/m.gguf") == ""
