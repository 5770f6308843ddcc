"""What is told of a server that can't start, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter

from plugins.module_utils.hostlib.server_rows import condition, remark, trouble
from plugins.module_utils.llama_server.converge import converge
from plugins.module_utils.llama_server.plan import plan
from plugins.module_utils.llama_server.status import status
from tests.roles.machine import Machine, deploy


def second_part(path: Path) -> Path:
    """The header of the second file of a model in two."""
    writer = GGUFWriter(path, "llama")
    writer.add_uint16("split.no", 1)
    writer.add_uint16("split.count", 2)
    writer.add_int32("split.tensors.count", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def broken(machine: Machine, tmp_path: Path) -> dict[str, Any]:
    """An instance that is declared with the second part of a model."""
    return machine.instance("main", "--model", str(second_part(tmp_path / "m-00002-of-00002.gguf")))


CAUSE = "illegal split file idx: 1 (file: "


def test_the_cause_is_told_of_this_life_and_by_its_first_error(machine: Machine, broken: dict[str, Any]) -> None:
    good = machine.instance("main")
    deploy(machine.declaring(good))
    [row] = deploy(machine.declaring(machine.instance("main", "--cache-type-v", "q4_0", "--flash-attn", "off")))
    assert "quantized V cache requires flash_attn" in row["error"]
    [row] = deploy(machine.declaring(broken))
    assert row["state"] == "restored"
    assert CAUSE in row["error"]
    assert "quantized" not in row["error"]


@pytest.mark.parametrize("trial", ["never", "always"])
def test_a_good_deployment_that_changes_nothing_ends_what_is_told_of_the_failure_before_it(
    machine: Machine, broken: dict[str, Any], trial: str
) -> None:
    good = machine.instance("main")
    deploy(machine.declaring(good))
    [row] = deploy(machine.declaring(broken, trial=trial))
    assert row["state"] == "restored"
    host = machine.declaring(good)
    shown = status(host, host.folder("main"))
    assert CAUSE in (remark(shown) or "")
    plan(host, remember=False)  # check mode
    assert CAUSE in (remark(status(host, host.folder("main"))) or "")
    [row] = plan(host)
    assert (row["state"], row["changed"]) == ("verified", False)
    shown = status(host, host.folder("main"))
    assert (condition(shown), trouble(shown), remark(shown), shown["last_error"]) == ("running", None, None, None)
    [row] = converge(host, ["main"])
    assert (row["state"], row["changed"]) == ("verified", False)
