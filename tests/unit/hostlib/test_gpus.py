"""Tables of nvidia-smi."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.hostlib import gpus


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have an nvidia-smi."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_rows_have_the_text_of_each_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, 'echo "$@" >&2; printf "0, NVIDIA L4\\n1, [N/A]\\n"; echo "a warning"')
    assert gpus.query(["index", "name"]) == [{"index": "0", "name": "NVIDIA L4"}, {"index": "1", "name": "[N/A]"}]


def test_it_is_asked_for_these_fields_of_this_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, 'echo "$@" > "$(dirname "$0")/asked"')
    assert gpus.query(["pid", "used_memory"], table="compute-apps") == []
    assert (tmp_path / "asked").read_text() == "--query-compute-apps=pid,used_memory --format=csv,noheader,nounits\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'Driver/library version mismatch'; echo 'NVML 580'; exit 18",
            "Driver/library version mismatch NVML 580",
        ),
        ("exit 9", "exit status 9"),
        ("echo 'No devices were found'", "No devices were found"),
        ("echo '0, NVIDIA L4'; exit 15", "0, NVIDIA L4"),
    ],
)
def test_where_there_is_no_table_it_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    pretend(tmp_path, monkeypatch, script)
    with pytest.raises(gpus.SmiError) as caught:
        gpus.query(["index", "name"])
    assert (str(caught.value), type(caught.value)) == (says, gpus.SmiError)


def test_a_driver_that_is_too_old_for_what_is_asked_is_told_with_what_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, """echo 'Field "compute_cap" is not a valid field to query.'; echo; exit 2""")
    with pytest.raises(gpus.SmiError, match=r"^nvidia-smi does not know compute_cap, .* older than 525, "):
        gpus.query(["name", "compute_cap"])


def test_one_that_is_missing_is_another_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gpus.SmiMissing):
        gpus.query(["index"])


@pytest.mark.parametrize(("text", "value"), [("24564", 24564.0), ("72.5", 72.5), ("[N/A]", None), ("", None)])
def test_what_a_gpu_does_not_tell_is_none(text: str, value: float | None) -> None:
    assert gpus.number(text) == value
