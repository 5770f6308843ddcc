"""Profiles of llama_models: what is refused before a host is touched."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from plugins.plugin_utils.model_profiles import problems, source
from tests.conftest import ROOT

SHA256 = "0" * 64


def told(token: str | None = None, **profile: Any) -> str:
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
        {"repo": "some/repo", "files": ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf"], "revision": "v1"},
        {"repo": "some/repo", "files": ["one.gguf", {"file": "two.gguf", "sha256": SHA256}]},
        {"urls": [{"url": f"https://host/m-0000{n}-of-00002.gguf?s=1", "sha256": SHA256} for n in (1, 2)]},
    ],
)
def test_what_can_be_had_is_right(profile: dict[str, Any]) -> None:
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


@pytest.mark.parametrize("file", ["Q4/m-00001-of-00003.gguf", "m-00002-of-00003.GGUF"])
def test_one_file_of_several_is_refused_before_it_is_downloaded(file: str) -> None:
    says = "has one file of several in {}: name all of them, in their order, in {}"
    assert says.format("file", "files") in told(repo="some/repo", file=file)
    assert says.format("url", "urls") in told(url=f"https://host/{file}?sig=sesame#x", sha256=SHA256)
    assert "sesame" not in told(url=f"https://host/{file}?sig=sesame#x", sha256=SHA256)


@pytest.mark.parametrize("file", ["m.gguf.part1of2", "m.gguf.part2of2", "m.gguf-split-a", "m.gguf-part-b"])
def test_a_file_that_was_cut_is_refused_with_how_to_join_it(file: str) -> None:
    says = "has a file that was cut (….part1of2) in {}: join all of its pieces with cat in a folder of the host"
    assert says.format("file") in told(repo="some/repo", file=file)
    assert says.format("url") in told(url=f"https://host/{file}?sig=sesame#x", sha256=SHA256)
    assert says.format("file in files, entry 2") in told(repo="some/repo", files=["a.gguf", file])


def hub(*files: Any, **more: Any) -> str:
    """What is said of a model of the hub in these files."""
    return told(repo="some/repo", files=list(files), **more)


def test_files_of_several_that_are_not_all_of_a_model_in_their_order_are_refused() -> None:
    first, second, third = (f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    assert "has files whose entry 1 of 2 is file 1 of 3: name all files of the model, in their" in hub(first, second)
    assert "has files whose entry 2 of 3 is file 3 of 3" in hub(first, third, second)
    assert "has one of files twice: name each file of the model once" in hub("a.gguf", "a.gguf")
    assert "has files, which is no list of two or more: write file for a model in one file" in hub(first)
    assert "has files, which is no list of two or more" in told(repo="some/repo", files=first)


def test_what_is_said_of_a_file_of_several_is_checked_as_that_of_one() -> None:
    assert "has files whose entry 2 is not the name of a file, or {file: NAME, sha" in hub("a.gguf", {"name": "b"})
    assert "has sha256: 12 in files, entry 2, which is not 64" in hub("a.gguf", {"file": "b.gguf", "sha256": "12"})
    assert "has sha256 beside files: write it for each" in hub("a.gguf", "b.gguf", sha256=SHA256)
    assert "has both file and files: name the file in file, or all" in hub("a.gguf", "b.gguf", file="a.gguf")
    assert "has repo without file: name the file in file, or all" in told(repo="some/repo")
    good = {"url": "https://host/a.gguf", "sha256": SHA256}
    assert "has urls whose entry 2 is not {url: ADDRESS, sha256: …}" in told(urls=[good, {"url": "https://host/b"}])
    bad = told(urls=[good, {"url": "ftp://me:sesame@host/b.gguf", "sha256": SHA256}])
    assert "has a url in urls, entry 2 that can't be asked for" in bad
    assert "sesame" not in bad


def test_what_is_said_about_a_model_is_text_and_whether_it_calls_tools() -> None:
    assert told(path="/m.gguf", quantization="Q4_K_M", tool_calls=True, description="a model") == ""
    assert "has tool_calls: 'yes': say true or false" in told(path="/m.gguf", tool_calls="yes")
    assert "has quantization: 4, which is not one line of text" in told(path="/m.gguf", quantization=4)


def test_each_shipped_profile_is_right_and_says_what_it_is() -> None:
    shipped = yaml.safe_load((ROOT / "group_vars/all/models.yml").read_text())["llama_models"]
    assert problems(list(shipped), shipped) == []
    assert all({"description", "quantization", "tool_calls"} <= set(profile) for profile in shipped.values())


def test_a_name_of_a_profile_that_reads_as_one_file_of_several_is_refused() -> None:
    [line] = problems(["m-00001-of-00003"], {"m-00001-of-00003": {"path": "/m.gguf"}})
    assert "has a name that llama.cpp takes for one file of several: choose another" in line


def test_the_source_is_what_files_depend_on_with_each_of_several_as_a_dict() -> None:
    profile = {"repo": "some/repo", "files": ["a.gguf", {"file": "b.gguf", "sha256": SHA256}], "recommended": {}}
    assert source(profile) == {
        "repo": "some/repo", "files": [{"file": "a.gguf"}, {"file": "b.gguf", "sha256": SHA256}],
    }  # fmt: skip


def test_a_token_that_cannot_be_sent_counts_where_the_hub_is_asked() -> None:
    line = told("hf_sesame\r", repo="some/repo", file="m.gguf")
    assert line.startswith("model mine comes from the hub, and HF_TOKEN in the controller's environment has a line end")
    assert "sesame" not in line
    assert told("hf_sesame\r", path="/m.gguf") == ""
