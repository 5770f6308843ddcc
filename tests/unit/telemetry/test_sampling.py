"""The processor's governor, and the sampler's file as hosts get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_tasks.telemetry import sampling
from tests.conftest import ROOT
from tests.roles.test_target_python import too_new


@pytest.mark.parametrize(
    ("governors", "told"),
    [(["performance"] * 2, "performance"), (["powersave", "performance"], "performance+powersave"), ([], None)],
)
def test_the_governor_is_that_of_all_cores(tmp_path: Path, governors: list[str], told: str | None) -> None:
    for number, name in enumerate(governors):
        folder = tmp_path / f"cpu{number}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert sampling.governor(tmp_path) == told


def test_the_sampler_runs_on_hosts_with_python_3_9() -> None:
    assert too_new(ROOT / "nexus_tasks/telemetry/sampling.py") == ""
