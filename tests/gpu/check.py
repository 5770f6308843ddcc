"""The check on a machine with a real GPU: its steps, one after the other, each with a limit.

    tests/gpu/check.sh --seconds 570 --results results

Makes an environment of what ``pack.py`` prepared, then runs each step of ``steps`` there as a process of its own.
What a step found is kept as it finds it, and the table is written after each: time that runs out costs the rest and
nothing else. Started again, it leaves out the steps that have nothing left to find out. Python 3.9's standard library
only; a machine with an older Python than Ansible needs is told so.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.gpu import rows, toolkit
from tests.gpu.rows import NotRun, Report

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT, STOP = "environment", "stop"
SECONDS = 570  # what the limits below are for
STOP_S = 25  # what is kept for ending what was started


@dataclass(frozen=True)
class Step:
    """One step: how long it may take, what it must at least have, and whether it needs what ``deploy`` left running."""

    name: str
    limit_s: int
    least_s: int
    served: bool = False


STEPS = (
    Step("machine", 60, 5),
    Step("driver", 60, 10),
    Step("nvidia-smi", 60, 5),
    Step("nvml", 60, 5),
    Step("build", 480, 60),
    Step("model", 120, 5),
    Step("deploy", 150, 20),
    Step("log", 20, 2, served=True),
    Step("server", 90, 15),
    Step("speed", 120, 20, served=True),
    Step("refusals", 120, 20, served=True),
    Step(STOP, 60, 0),
)


@dataclass(frozen=True)
class Place:
    """The folders of a check."""

    pack: Path
    work: Path
    results: Path

    @property
    def rows(self) -> Path:
        return self.work / "rows"

    @property
    def python(self) -> Path:
        return self.work / "env/bin/python"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/gpu/check.sh", description="Check this project on this machine and its GPU."
    )
    parser.add_argument("--pack", type=Path, default=ROOT / rows.PACK, help="what was prepared (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / f"{rows.PACK}-work", help="where it is done (default: %(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / f"{rows.PACK}-results",
        help="where the table goes, with results.json, check.log and details.tar.gz (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="how long all may take (default: %(default)s; with more, a step may take more); a further start goes on",
    )
    parser.add_argument(
        "--small", action="store_true",
        help="a model of a few MiB instead of 1.8 GiB: to try the check itself, where speed is not the matter",
    )  # fmt: skip
    names = [step.name for step in STEPS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="some of the steps (default: all)")
    options = parser.parse_args(argv)
    place = Place(options.pack.absolute(), options.work.absolute(), options.results.absolute())
    for folder in (place.work, place.results):
        folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end the step that runs, and to write what there is
    deadline = time.monotonic() + options.seconds
    try:
        with (place.results / "check.log").open("ab") as log:
            run(place, options.only, deadline, max(1.0, options.seconds / SECONDS), ["--small"] * options.small, log)
    except KeyboardInterrupt:
        sys.stdout.write("interrupted; start it again to go on\n")
        return 130
    finally:
        found, text = write_results(place)
        sys.stdout.write(f"\n{text}\nthe same, the log and what else was kept: {place.results}\n")
    return rows.status(found)


def run(place: Place, only: list[str], deadline: float, patience: float, options: list[str], log: Any) -> None:
    """Run those of the steps that have something left to find out, each with so many times its limit."""
    if not rows.complete(rows.read(place.rows, ENVIRONMENT)) or not place.python.exists():
        say("environment")
        with reported(place, ENVIRONMENT) as report:
            make_environment(place, report, log)
    write_results(place)
    ready = rows.complete(rows.read(place.rows, ENVIRONMENT))
    # A step that needs the server needs the deployment again, which changes nothing where all is as it was.
    due = {name for name in only if name == STOP or not rows.complete(rows.read(place.rows, name))}
    if any(step.served and step.name in due for step in STEPS):
        due.add("deploy")
    for step in STEPS:
        if step.name not in due:
            continue
        left = deadline - time.monotonic() - (0 if step.name == STOP else STOP_S)
        say(f"{step.name} ({left:.0f} s left)")
        if not ready:
            give_up(place, step, "there is no environment to run it in")
        elif left < step.least_s and step.name != STOP:
            give_up(place, step, f"{max(left, 0):.0f} s were left, and it needs {step.least_s}: start it again")
        else:
            most = max(STOP_S, left) if step.name == STOP else left
            run_step(place, step, min(most, step.limit_s * patience), options, log)
        write_results(place)


def run_step(place: Place, step: Step, limit: float, options: list[str], log: Any) -> None:
    """Run a step as a process of its own, and end it with all that it started when its time is over."""
    Report(place.rows, step.name)  # nothing of an earlier start is taken for this one's
    argv = [place.python, "-m", "tests.gpu.steps", step.name, "--work", place.work, "--pack", place.pack, *options]
    log.write(f"\n===== {step.name}\n".encode())
    log.flush()
    with subprocess.Popen(
        list(map(str, argv)), cwd=ROOT, env=environment(place), stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            status: int | None = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(process)
    found = rows.read(place.rows, step.name) or {"done": False, "rows": [], "seconds": 0}
    if status is None:
        add(place, step.name, found, rows.NOT_RUN, f"not done after {limit:.0f} s: start it again to go on")
    elif not found["done"]:
        add(place, step.name, found, rows.FAILED, f"ended with status {status}: {last_words(place)}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a step's process group: what it started and is no server of its own session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


def environment(place: Place) -> dict[str, str]:
    """The variables of a step: the environment's programs first, the tools that were brought along last."""
    path = [str(place.python.parent), os.environ.get("PATH", os.defpath), str(place.work / "tools/bin")]
    if (place.work / "toolkit/bin").exists():
        path.insert(0, str(place.work / "toolkit/bin"))
    return {
        **os.environ, "PATH": os.pathsep.join(path), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        "VIRTUAL_ENV": str(place.work / "env"), "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200",
        "ANSIBLE_INVENTORY": str(place.work / "inventory"), "NEXUS_INVENTORY": str(place.work / "inventory"),
        "NEXUS_RESULTS": str(place.work / "records"), "PIP_NO_INDEX": "1",
    }  # fmt: skip


# --- the environment


@contextlib.contextmanager
def reported(place: Place, step: str) -> Iterator[Report]:
    """A step that runs here."""
    report = Report(place.rows, step)
    try:
        yield report
        report.end()
    except NotRun as reason:
        report.add("all of it", rows.NOT_RUN, reason)


def make_environment(place: Place, report: Report, log: Any) -> None:
    """Unpack what was brought along and make a Python environment of it."""
    pack = read_pack(place.pack)
    report.add("what was prepared", True, f"for llama.cpp {pack['ref']}, Python {', '.join(pack['pythons'])}")
    version = ".".join(platform.python_version_tuple()[:2])
    if version not in pack["pythons"]:
        raise NotRun(
            f"{sys.executable} is Python {version}, and packages were prepared for {', '.join(pack['pythons'])}: "
            f"prepare with --python {version}, or name another interpreter in NEXUS_PYTHON"
        )
    for old in ("env", "wheels", "tools"):
        shutil.rmtree(place.work / old, ignore_errors=True)
    with tarfile.open(place.pack / "packages.tar.xz") as archive:
        archive.extractall(place.work)  # noqa: S202 - its sha256 is that of pack.json
    wheels = place.work / "wheels"
    python = sys.executable
    # Debian's python3 has no ensurepip without python3-venv; pip runs from its own wheel.
    call([python, "-m", "venv", "--without-pip", str(place.work / "env")], log)
    pip = next(wheels.glob("pip-*.whl"))
    names = sorted({path.name.split("-")[0] for path in wheels.glob("*.whl")})
    call(
        [str(place.python), f"{pip}/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index",
         "--no-deps", "--no-compile", "--find-links", str(wheels), *names], log,
    )  # fmt: skip
    report.add("Python environment", True, f"Python {version}, {len(names)} packages")
    have_toolkit(place, report)


def have_toolkit(place: Place, report: Report) -> None:
    """Complete a CUDA toolkit that lacks what Python's packages have."""
    into = place.work / "toolkit"
    shutil.rmtree(into, ignore_errors=True)
    nvcc = toolkit.find_nvcc()
    root = toolkit.root_of(nvcc) if nvcc else None
    if nvcc is None or root is None or toolkit.is_whole(nvcc, root):
        return
    missing = toolkit.complete(into, nvcc, root, sys.path)
    if missing:
        shutil.rmtree(into)
    found = f"it lacks {', '.join(missing)}" if missing else f"{root} and Python's packages, together"
    report.add("CUDA toolkit", rows.OK, found)


def read_pack(folder: Path) -> dict[str, Any]:
    """What was prepared; NotRun where it is not there, damaged, or for another version or machine."""
    again = "run tests/gpu/check.sh --prepare on a machine with network and bring .gpu-check along"
    try:
        pack: dict[str, Any] = json.loads((folder / rows.PACK_FILE).read_text(encoding="utf-8"))
        for name, entry in pack["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != entry["sha256"]:
                raise NotRun(f"{folder / name} is not what was prepared: {again}")
    except FileNotFoundError as error:
        raise NotRun(f"{error.filename} is not there: {again}") from error
    defaults = (ROOT / "roles/llama_cpp/defaults/main.yml").read_text(encoding="utf-8")
    pinned = re.search(r"^llama_cpp_commit: (\w+)$", defaults, re.MULTILINE)
    if not pinned or pinned[1] != pack["commit"]:
        raise NotRun(f"{folder} was prepared for {pack['ref']}, and the role names another commit: {again}")
    if pack["machine"] != platform.machine():
        raise NotRun(f"{folder} was prepared for {pack['machine']}, and this is {platform.machine()}: {again}")
    return pack


def call(argv: list[str], log: Any) -> None:
    """Run a program into the log; NotRun where it fails."""
    log.flush()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        raise NotRun(f"{' '.join(argv[:4])} ended with status {done.returncode}: see check.log")


# --- results


def give_up(place: Place, step: Step, reason: str) -> None:
    add(place, step.name, {"rows": [], "seconds": 0}, rows.NOT_RUN, reason)


def add(place: Place, step: str, found: dict[str, Any], verdict: str, reason: str) -> None:
    """Add the row that says why there are no more."""
    last = {"step": step, "check": "all of it" if not found["rows"] else "the rest of it", "verdict": verdict,
            "found": reason, "note": ""}  # fmt: skip
    rows.write(place.rows / f"{step}.json", {**found, "done": True, "rows": [*found["rows"], last]})


def last_words(place: Place) -> str:
    """The last line of the log."""
    with (place.results / "check.log").open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
        lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def write_results(place: Place) -> tuple[list[dict[str, Any]], str]:
    """Write the table and what else is worth keeping: four files, as long as time lasts. The rows, and the table."""
    found: list[dict[str, Any]] = []
    seconds = {}
    for name in (ENVIRONMENT, *(step.name for step in STEPS)):
        left = rows.read(place.rows, name)
        if left:
            found += left["rows"]
            seconds[name] = left["seconds"]
    counts = {verdict: sum(row["verdict"] == verdict for row in found) for verdict in
              (rows.OK, rows.DIFFERS, rows.FAILED, rows.NOT_RUN)}  # fmt: skip
    text = (
        rows.table(found, seconds) + "\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + "\n"
    )
    (place.results / "table.txt").write_text(text, encoding="utf-8")
    rows.write(place.results / "results.json", {"status": rows.status(found), "seconds": seconds, "rows": found})
    details = place.results / "details.tar.gz"
    new = details.with_name("details.new")
    with tarfile.open(new, "w:gz") as archive:
        for name in ("details", "records", "prefix/logs"):
            if (place.work / name).exists():
                archive.add(place.work / name, name)
    new.replace(details)
    return found, text


def say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()
