"""Models of hosts as people and programs see them."""

from __future__ import annotations

from typing import Any

from nexus_tasks.fleet.stored_models import Disk, Found, HostModels, as_json, text

GIB = 1 << 30


def row(name: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name, "state": "verified", "size_bytes": GIB, "files": [f"/m/{name}.gguf"], "source": None,
        "elsewhere": False, "declared": False, "used_by": [], "quantization": None, "tool_calls": None, **values,
    }  # fmt: skip


HOST = HostModels(
    "rig-1",
    (
        row("served", used_by=["main"], declared=True, quantization="Q4_K_M", tool_calls=True),
        row("old", size_bytes=2 * GIB, tool_calls=False),
        row("mine", elsewhere=True),
        row("wanted", size_bytes=None, state="not there", declared=True),
    ),
    Disk(100 * GIB, 50 * GIB),
)


def test_a_host_is_a_table_with_what_its_models_take_and_what_of_it_nobody_needs() -> None:
    assert text(Found((HOST,), {}), 80).splitlines() == [
        "rig-1: models 3.0 GiB, of which 2.0 GiB unused; 50.0 GiB of 100.0 GiB are free",
        "MODEL   QUANTIZATION  TOOLS     SIZE  STATE      USED BY",
        "served  Q4_K_M        yes    1.0 GiB  verified   main",
        "old                   no     2.0 GiB  verified",
        "mine                         1.0 GiB  verified",
        "wanted                                not there  declared",
    ]


def test_long_names_fit_a_terminal_of_80_columns() -> None:
    host = HostModels("rig-1", (row("n" * 80, used_by=["main", "u" * 90]),), Disk(GIB, GIB))
    assert max(map(len, text(Found((host,), {}), 80).splitlines())) <= 80


def test_a_host_without_models_is_one_line() -> None:
    empty = HostModels("rig-2", (), Disk(GIB, GIB))
    assert text(Found((empty,), {}), 80) == "rig-2: models 0 MiB; 1.0 GiB of 1.0 GiB are free"


def test_programs_get_all_and_damaged_models_are_named() -> None:
    damaged = HostModels("rig-2", (row("broken", state="damaged"), row("good")), Disk(GIB, 1))
    told = as_json(Found((HOST, damaged), {}))
    assert [host["host"] for host in told] == ["rig-1", "rig-2"]
    assert (told[0]["models"][0]["tool_calls"], told[1]["free_bytes"]) == (True, 1)
    assert Found((HOST, damaged), {}).damaged() == ["rig-2/broken"]
