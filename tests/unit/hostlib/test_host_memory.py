"""Memory that a host has, or that a container may have of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.hostlib.host_memory import available_mib, total_mib

MEMINFO = "MemTotal:       24576000 kB\nMemFree:         1024000 kB\nMemAvailable:   20480000 kB\nSwapTotal: 0 kB\n"
V1 = "sys/fs/cgroup/memory/memory.limit_in_bytes"
V2 = "sys/fs/cgroup/memory.max"
MIB = 1024 * 1024
Files = dict[str, str | int]


def host(root: Path, **files: str | int) -> str:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return str(root)


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        ("", 24000), ("max\n", 24000), ("9223372036854771712\n", 24000), (f"{8000 * MIB}\n", 8000),
        (f"max\n{4000 * MIB}\n", 4000), (f"{90_000 * MIB}", 24000),
    ],
)  # fmt: skip
def test_a_host_has_what_its_container_may_have(limits: str, total: float) -> None:
    assert total_mib(MEMINFO + limits) == total


def test_a_text_without_a_total_says_so() -> None:
    with pytest.raises(ValueError, match="no MemTotal"):
        total_mib("123\n")


def test_what_a_container_has_left_is_its_limit_less_what_can_not_be_dropped(tmp_path: Path) -> None:
    statistics = f"anon {2000 * MIB}\nfile 0\ninactive_file {500 * MIB}\nactive_file {250 * MIB}\n"
    left: Files = {V2: 8000 * MIB, "sys/fs/cgroup/memory.current": 3000 * MIB, "sys/fs/cgroup/memory.stat": statistics}
    assert available_mib(host(tmp_path, **left)) == 8000 - 3000 + 750


def test_the_older_form_of_limits_is_read_too(tmp_path: Path) -> None:
    statistics = f"inactive_file 7\ntotal_inactive_file {100 * MIB}\ntotal_active_file {50 * MIB}\n"
    folder = "sys/fs/cgroup/memory"
    left: Files = {V1: 4000 * MIB, f"{folder}/memory.usage_in_bytes": 3000 * MIB, f"{folder}/memory.stat": statistics}
    assert available_mib(host(tmp_path, **left)) == 1150


@pytest.mark.parametrize("limit", ["max", 9223372036854771712])
def test_where_nothing_is_limited_the_kernel_says_it(tmp_path: Path, limit: str | int) -> None:
    assert available_mib(host(tmp_path)) == 20_000
    assert available_mib(host(tmp_path, **{V2: limit, "sys/fs/cgroup/memory.current": 3000 * MIB})) == 20_000


def test_this_machine_has_some() -> None:
    assert 0 < available_mib() < 1e9
