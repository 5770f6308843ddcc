"""What processes take from their environment: the umask of modules, and everybody's home folder."""

from __future__ import annotations

import ast
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

PROCESS = ROOT / "plugins/module_utils/hostlib/process.py"
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"  # of the system: others may run it, too
SHOW = (
    "import os; have_a_home(); print(*(os.environ.get(name) for name in ('HOME', 'USER', 'XDG_CACHE_HOME')), sep='\\n')"
)
HOME = pwd.getpwuid(os.geteuid()).pw_dir


def settled(user: int | None = None, **environment: str) -> list[str]:
    """HOME, USER and XDG_CACHE_HOME as they are afterwards; None is one that is not set."""
    done = subprocess.run(
        [PYTHON, "-c", f"{PROCESS.read_text()}\n{SHOW}"], env=environment, user=user, group=user,
        extra_groups=[] if user is not None else None, capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """Folders by what is odd about them."""
    (tmp_path / "file").touch()
    (tmp_path / "a space").mkdir()
    return {"elsewhere": str(tmp_path), "space": str(tmp_path / "a space"), "below a file": str(tmp_path / "file/x")}


@pytest.mark.parametrize("place", ["elsewhere", "space"])
def test_a_home_folder_that_can_be_written_to_counts_wherever_it_is(odd: dict[str, str], place: str) -> None:
    assert settled(HOME=odd[place])[0] == odd[place]


@pytest.mark.parametrize("home", [None, "", "relative", "/nonexistent", "below a file"])
def test_without_one_the_user_database_names_it(odd: dict[str, str], home: str | None) -> None:
    found = settled() if home is None else settled(HOME=odd.get(home, home))
    assert found[0] == HOME
    assert not Path("/nonexistent").exists()


def test_the_name_is_that_of_the_user_who_the_process_is() -> None:
    assert settled(USER="somebody", LOGNAME="somebody")[1] == pwd.getpwuid(os.geteuid()).pw_name


def test_a_cache_that_can_not_be_written_to_does_not_count(odd: dict[str, str], tmp_path: Path) -> None:
    assert settled(XDG_CACHE_HOME=odd["below a file"])[2] == "None"
    for place in (odd["space"], str(tmp_path / "made/when/needed")):
        assert settled(XDG_CACHE_HOME=place)[2] == place


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of others")
def test_in_the_home_of_another_user_nothing_is_kept(odd: dict[str, str]) -> None:
    os.chown(odd["space"], 64321, 64321)
    assert settled(HOME=odd["space"]) == [odd["space"], "root", f"{HOME}/.cache"]
    assert settled(HOME=odd["space"], XDG_CACHE_HOME=odd["elsewhere"])[2] == odd["elsewhere"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be others")
def test_where_nothing_can_be_written_to_it_is_among_the_temporary_files(tmp_path: Path) -> None:
    number = 64321  # which has no entry in the user database, as a container's user may
    for folder in (*reversed(tmp_path.parents), tmp_path):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/pytest"):  # noqa: S108 - pytest's own
            folder.chmod(0o755)
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir(mode=0o555)
    temporary.mkdir()
    temporary.chmod(0o1777)
    given = {"HOME": str(home), "TMPDIR": str(temporary), "USER": "kept"}
    expected = temporary / f"llama-nexus-home-{number}"
    assert settled(number, **given)[:2] == [str(expected), "kept"]
    assert (expected.stat().st_uid, expected.stat().st_mode & 0o777) == (number, 0o700)
    assert settled(number, **given)[0] == str(expected)
    # One that somebody else made, or that leads elsewhere, is not trusted.
    expected.rmdir()
    expected.mkdir(mode=0o777)
    assert settled(number, **given)[0].startswith(f"{temporary}/llama-nexus-home-")
    assert not list(expected.iterdir())
    expected.rmdir()
    expected.symlink_to(home)
    assert settled(number, **given)[0] != str(expected)


MODULES = sorted(ROOT.glob("plugins/modules/*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_a_module_begins_with_its_umask_and_a_home(path: Path) -> None:
    tree = ast.parse(path.read_text())
    [main] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert ast.unparse(main.body[0]) == "begin()"


def tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a file, those in blocks too."""
    found, left = [], list(yaml.safe_load(path.read_text()) or [])
    while left:
        task = left.pop(0)
        found.append(task)
        for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            left += task.get(part) or []
    return found


FILES = [*sorted(ROOT.glob("roles/*/tasks/*.yml")), *sorted(ROOT.glob("playbooks/**/*.yml"))]


def test_a_jobs_file_lies_in_a_folder_of_its_own_and_its_follower_is_told_where() -> None:
    jobs, followers = [], []
    for path in FILES:
        for task in tasks(path):
            if "async" in task:
                jobs.append(task["register"])
                assert re.fullmatch(r"\{\{ \w+_jobs \}\}", task["vars"]["ansible_async_dir"]), path
            if "llama.nexus.follow" in task:
                followers.append(task["llama.nexus.follow"]["job"].strip("{} "))
    assert len(jobs) == 7
    assert sorted(jobs) == sorted(followers)


def test_what_tasks_make_has_a_mode_of_its_own() -> None:
    makers = ("file", "copy", "template", "get_url", "unarchive", "assemble", "blockinfile", "lineinfile")
    without = []
    for path in FILES:
        for task in tasks(path):
            for name in makers:
                made = task.get(f"ansible.builtin.{name}")
                if made and made.get("state") not in ("absent", "link") and "mode" not in made:
                    without.append(f"{path.relative_to(ROOT)}: {task['name']}")
    assert without == []
