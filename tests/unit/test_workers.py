"""Runs of the tests by several workers: real ones, of small projects with the plugin tests.schedule."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import schedule
from tests.conftest import ROOT, wait_for
from tests.locks import EPHEMERAL

TAKE = """
import sys
from pathlib import Path
from tests.locks import Ports
ports = Ports(Path(sys.argv[1]))
print(*(ports.take() for _ in range(3000)), flush=True)
sys.stdin.read()
"""
# Each test notes when it began and ended.
CASES = """
import json, sys, pytest
class Cases:
    def pytest_collection_modifyitems(self, items):
        print(json.dumps([[item.nodeid.partition("[")[0], bool(item.get_closest_marker("soak"))] for item in items]))
sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[Cases()]))
"""
CONFTEST = """
import time
import pytest
@pytest.fixture(autouse=True)
def noted(request, pytestconfig):
    begun = time.monotonic()
    yield
    with open(pytestconfig.rootpath / "notes", "a") as notes:
        notes.write(f"{begun} {time.monotonic()} {request.node.path.name}\\n")
"""


def project(folder: Path, **files: str) -> Path:
    """Write a project: a configuration as this one's, and files of tests by their names, ``__`` for a slash."""
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = alone\naddopts = --dist=loadfile --no-loadscope-reorder\n")
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Begin a run with two workers, as from a terminal."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "tests.schedule", "-p", "no:cacheprovider", "-n", "2", *options],
        cwd=folder, env={**outer, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}, start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def run(folder: Path, *options: str) -> str:
    """What a run prints that succeeds."""
    process = start(folder, *options)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def test_no_port_is_given_to_two_processes_and_none_is_the_kernels(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE, str(tmp_path / "ports.lock")]
    with (
        subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as two,
    ):
        assert one.stdout
        assert two.stdout
        given = [int(port) for process in (one.stdout, two.stdout) for port in process.readline().split()]
        one.communicate()
        two.communicate()
    assert len(set(given)) == len(given) == 6000
    low, high = map(int, EPHEMERAL.read_text().split())
    assert not [port for port in given if low <= port <= high]


def test_nothing_runs_beside_a_test_that_measures_time(tmp_path: Path) -> None:
    many = "import time, pytest\n@pytest.mark.parametrize('n', range(15))\ndef test_it(n): time.sleep(0.05)\n"
    alone = f"import pytest\npytestmark = pytest.mark.alone\n{many}"
    run(project(tmp_path, test_a=many, test_b=alone, test_c=many, test_d=alone, test_e=many))
    rows = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert len(rows) == 75
    spans = [(float(begun), float(ended), file in ("test_b.py", "test_d.py")) for begun, ended, file in rows]
    together = [
        {one[2], other[2]} for one, other in itertools.combinations(spans, 2) if one[0] < other[1] and other[0] < one[1]
    ]
    assert {False} in together  # the others do run beside each other
    assert [pair for pair in together if True in pair] == []


def test_what_takes_long_is_begun_first_and_what_runs_alone_comes_last(tmp_path: Path) -> None:
    test = "def test_it(): pass\n"
    alone = f"import pytest\npytestmark = pytest.mark.alone\n{test}"
    project(tmp_path, unit__test_a=test, fleet__test_b=test, roles__test_c=test, bed__test_d=alone)
    output = run(tmp_path, "-n", "0", "--collect-only", "-q")
    assert re.findall(r"test_\w\b", output) == ["test_b", "test_c", "test_a", "test_d"]


def test_of_each_matrix_that_is_left_to_soak_a_case_is_always_run() -> None:
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if re.search(r"mark\.soak\b", path.read_text())]
    done = subprocess.run([sys.executable, "-c", CASES, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[[")))
    left_out = {test for test, soak in cases if soak}
    assert left_out
    assert left_out - {test for test, soak in cases if not soak} == set()


@pytest.mark.parametrize(("processors", "workers"), [(1, 2), (2, 3), (3, 4), (64, 4)])
def test_while_one_worker_waits_another_has_the_processor(
    processors: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)))
    assert schedule.pytest_xdist_auto_num_workers() == workers


def test_people_see_which_files_are_begun_and_what_a_fixture_tells(tmp_path: Path) -> None:
    tells = """
from tests import workers
def test_it(request):
    workers.tell(request.config, "compiling 1 of 224 (0 %)")
"""
    output = run(project(tmp_path, test_a=tells, test_b="def test_it(): pass\n"))
    for line in ("test_a.py", "test_b.py", "  compiling 1 of 224 (0 %)"):
        assert re.search(rf"^\.*{re.escape(line)}$", output, re.MULTILINE), output
    assert [line for line in output.splitlines() if len(line) > 80 and str(tmp_path) not in line] == []


def test_what_all_workers_need_is_made_once(tmp_path: Path) -> None:
    makes = """
import pathlib, uuid
from tests import workers
def test_it(request):
    made = workers.once(request.config, "number", lambda: uuid.uuid4().hex)
    pathlib.Path(__file__).with_suffix(".made").write_text(made)
"""
    run(project(tmp_path, test_a=makes, test_b=makes))
    assert len({path.read_text() for path in tmp_path.glob("*.made")}) == 1
    assert len(list(tmp_path.glob("*.made"))) == 2


@pytest.mark.parametrize("seconds", [1, 8])
def test_ctrl_c_ends_all_workers_after_they_have_cleaned_up(tmp_path: Path, seconds: int) -> None:
    waits = f"""
import os, pathlib, time, pytest
here = pathlib.Path(__file__)
@pytest.fixture
def server():
    yield
    time.sleep({seconds})
    here.with_suffix(".cleaned").touch()
def test_it(server):
    here.with_suffix(".begun").write_text(str(os.getpid()))
    time.sleep(600)
"""
    process = start(project(tmp_path, test_a=waits, test_b=waits))

    def begun() -> list[str]:
        numbers = [path.read_text() for path in tmp_path.glob("*.begun")]
        return numbers if len(numbers) == 2 and all(numbers) else []

    workers = wait_for(begun, "both workers")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=120)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert len(list(tmp_path.glob("*.cleaned"))) == 2, output
    assert [pid for pid in workers if Path("/proc", pid).exists()] == []
