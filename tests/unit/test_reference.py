"""docs/reference.md: what becomes of every flag of llama-server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nexus_tasks import reference
from nexus_tasks.fleet import server_options
from nexus_tasks.reference import Flag
from tests import pin

HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
-t,    --threads N                      number of CPU threads to use during generation (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading
--lora-scaled FNAME:SCALE,...           path to LoRA adapter
--control-vector-layer-range START END
                                        layer range
--fim-qwen-1.5b-default                 use default Qwen
"""


def test_the_help_is_read_with_all_spellings_and_the_name_of_the_argument() -> None:
    assert reference.flags_of_help(HELP) == [
        Flag(("-h", "--help", "--usage"), ""),
        Flag(("-t", "--threads"), "N"),
        Flag(("-fa", "--flash-attn"), "[on|off|auto]"),
        Flag(("-kvo", "--kv-offload", "-nkvo", "--no-kv-offload"), ""),
        Flag(("--lora-scaled",), "FNAME:SCALE,..."),
        Flag(("--control-vector-layer-range",), "START END"),
        Flag(("--fim-qwen-1.5b-default",), ""),
    ]


def test_a_new_flag_is_one_for_extra_args() -> None:
    flags = [*reference.flags_of_help(HELP), Flag(("-nf", "--new-flag"), "N")]
    left = reference.for_extra_args(flags, server_options.rules())
    assert [flag.spellings[-1] for flag in left] == ["--control-vector-layer-range", "--new-flag"]


def test_a_flag_is_not_for_extra_args_when_one_of_its_spellings_is_known() -> None:
    rules = replace(server_options.rules(), refused_flags=[])
    assert [flag.spellings[0] for flag in reference.for_extra_args([Flag(("-c", "--other"), "N")], rules)] == []


def test_the_page_is_what_the_tables_and_the_pinned_server_say(llama_server_bin: Path) -> None:
    fresh = reference.page(*reference.ask(llama_server_bin), server_options.rules())
    assert reference.PAGE.read_text() == fresh, "renew it: nox -s reference -- PATH/TO/llama-server"


@pytest.mark.parametrize("server", ["/nowhere/llama-server", "/bin/false"])
def test_what_can_not_be_run_is_named(capsys: pytest.CaptureFixture[str], server: str) -> None:
    assert reference.main([server]) == 1
    assert f"error: {server} can't be run (" in capsys.readouterr().err


def test_another_version_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "llama-server"
    other.write_text("#!/bin/sh\necho 'version: 9999 (abcdef123)'\n")
    other.chmod(0o755)
    assert reference.main([str(other)]) == 1
    assert f"{other} is not of the pinned version {pin.REF}" in capsys.readouterr().err
