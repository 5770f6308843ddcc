"""Flags of llama-server beside those that memory depends on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.hostlib.llama_server_help import flags_of
from nexus_tasks.model_store import other_flags
from nexus_tasks.model_store.server_options import known_flags

GONE = {"--mlock", "--mmap", "--no-mmap"}  # older spellings, which are taken all the same


def test_all_flags_of_the_pinned_server_are_known(llama_server_bin: Path) -> None:
    text = subprocess.run([llama_server_bin, "--help"], capture_output=True, text=True, check=True).stdout
    assert set(flags_of(text)) == {*other_flags.OTHERS, *known_flags()} - GONE


@pytest.mark.parametrize("flag", ["-m", "--model", "-hf"])
def test_a_model_beside_the_one_that_is_planned_is_refused(flag: str) -> None:
    with pytest.raises(UsageError, match=f"{flag} names a model beside MODEL"):
        other_flags.check_known([flag])


@pytest.mark.parametrize(
    ("flag", "hint"), [("--tmep", "--temp"), ("--ctxsize", "--ctx-size"), ("--quite-another", "llama-server --help")]
)
def test_a_flag_that_there_is_not_is_told_with_the_nearest(flag: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"llama-server has no option {flag}") as told:
        other_flags.check_known(["--temp", flag])
    assert hint in told.value.hint
