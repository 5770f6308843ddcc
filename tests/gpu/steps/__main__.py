"""One step of the check by its name: ``python -m tests.gpu.steps NAME --work FOLDER --pack FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.gpu.rows import NOT_RUN, NotRun, Report
from tests.gpu.steps import deployment, machine, nvidia_smi, nvml, server, speed
from tests.gpu.steps.place import Place

STEPS: dict[str, Callable[[Place, Report], None]] = {
    "machine": machine.machine, "driver": machine.driver, "nvidia-smi": nvidia_smi.nvidia_smi, "nvml": nvml.nvml,
    "build": deployment.build, "model": deployment.model, "deploy": deployment.deploy, "log": server.log,
    "server": server.server, "speed": speed.speed, "refusals": deployment.refusals, "stop": deployment.stop,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.steps", description="Run one step of the check.")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(argv)
    place = Place(options.work, options.pack, options.small)
    report = Report(place.work / "rows", options.step)
    try:
        STEPS[options.step](place, report)
    except NotRun as why:
        report.add("all of it" if not report.rows else "the rest of it", NOT_RUN, why)
    report.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
