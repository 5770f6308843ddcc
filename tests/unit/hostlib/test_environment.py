"""What processes take from their environment: the umask of modules, and everybody's home folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENVIRONMENT = ROOT / "plugins/module_utils/hostlib/environment.py"
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"  # of the system: others may run it, too
SHOW = (
    "import os; have_a_home(); print(*(os.environ.get(name) for name in ('HOME', 'USER', 'XDG_CACHE_HOME')), sep='\\n')"
)
HOME = pwd.getpwuid(os.geteuid()).pw_dir


def settled(user: int | None = None, **environment: str) -> list[str]:
    """HOME, USER and XDG_CACHE_HOME as they are afterwards; None is one that is not set."""
    done = subprocess.run(
        [PYTHON, "-c", f"{ENVIRONMENT.read_text()}\n{SHOW}"], env=environment, user=user, group=user,
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


def test_a_modules_programs_have_a_python_without_the_users_settings() -> None:
    given = {"PYTHONPATH": "/x", "PYTHONWARNINGS": "error", "PYTHONINSPECT": "1", "PYTHONUNBUFFERED": "1", "HOME": HOME}
    code = (
        f"{ENVIRONMENT.read_text()}\nbegin(); print(sorted(name for name in os.environ if name.startswith('PYTHON')))"
    )
    done = subprocess.run(
        [PYTHON, "-c", code], env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[0] == "['PYTHONUNBUFFERED']", done.stderr
