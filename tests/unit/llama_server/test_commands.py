"""Programs that fail, and what they say."""

from __future__ import annotations

import pytest

from plugins.module_utils.llama_server.commands import cause


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Error response from daemon: no such device\nError: failed to start containers: x", "no such device"),
        ("WARNING: Error loading config file: denied\nerror: invalid argument: --x", "invalid argument"),
        ("ggml_cuda_init: failed to initialize\nerror: invalid argument: --x", "invalid argument"),
        ("Step 4/4 : RUN echo error: $(x)\nerror: the base image lacks libx\nThe command failed", "lacks libx"),
        ("Job for x.service failed because of y\nSee systemctl status", "because of y"),
        ("one\nand two\n\n", "and two"),
    ],
)
def test_of_what_a_program_says_the_cause_is_told(said: str, why: str) -> None:
    assert why in cause(said.splitlines())
