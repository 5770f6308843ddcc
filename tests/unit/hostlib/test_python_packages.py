"""Installing Python packages: with which variables, and a look at what is there."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from nexus_tasks.hostlib.python_packages import installer_environment, missing
from tests.conftest import ROOT


@pytest.fixture
def pip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of settings of pip's, and an environment without others."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "PYTHON"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path / "pip.conf"


def test_of_pips_settings_those_of_the_index_count_wherever_they_stand(
    pip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_file.write_text("[global]\nproxy = http://p\nuser = true\n[install]\nindex-url = https://i\ntarget = /x\n")
    monkeypatch.setenv("PIP_CERT", "/ca.pem")
    monkeypatch.setenv("PIP_DRY_RUN", "1")
    made = {name: value for name, value in installer_environment(sys.executable).items() if name.startswith("PIP_")}
    ours = {"PIP_PROXY": "http://p", "PIP_INDEX_URL": "https://i", "PIP_CERT": "/ca.pem", "PIP_CONFIG_FILE": os.devnull}
    assert made.items() >= ours.items()
    assert not {"PIP_USER", "PIP_TARGET", "PIP_DRY_RUN"} & made.keys()


def test_what_uv_is_told_of_the_index_is_kept_and_nothing_else(pip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"UV_DEFAULT_INDEX": "https://i", "UV_INDEX_OURS_PASSWORD": "x", "UV_NATIVE_TLS": "1", "HTTPS_PROXY": "p"}
    dropped = {"UV_TARGET": "/x", "UV_SYSTEM_PYTHON": "1", "UV_PROJECT_ENVIRONMENT": "/x", "UV_CONSTRAINT": "/x",
               "PYTHONPATH": "/x", "VIRTUAL_ENV": "/x", "VIRTUALENV_DOWNLOAD": "1", "UV_PYTHON": "3.9"}  # fmt: skip
    for name, value in {**kept, **dropped}.items():
        monkeypatch.setenv(name, value)
    made = installer_environment()
    assert made.items() >= kept.items()
    assert not dropped.keys() & made.keys()


def test_settings_that_pip_can_not_read_are_left_to_pip_to_tell(pip_file: Path) -> None:
    pip_file.write_text("no section\n")
    assert installer_environment(sys.executable)["PIP_CONFIG_FILE"] == str(pip_file)


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        ("pip\n", []),
        ("# a comment\n--no-index\npip>=20 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11  # via x\n", []),
        ("nexus-no-such-thing==1.0 ; python_version < '3'\n", []),
        ("nexus-no-such-thing==1.0 ; python_version > '3' \\\n    --hash=sha256:00\n",
         ['nexus-no-such-thing==1.0; python_version > "3"']),
        ("pip==0.1\n", ["pip==0.1"]),
        ("", []),
    ],
)  # fmt: skip
def test_what_is_lacking_is_found(requirements: str, expected: list[str]) -> None:
    assert missing(sys.executable, {"set": requirements}) == {"set": expected}


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true"])
def test_what_is_no_environment_lacks_everything(python: str) -> None:
    assert missing(python, {"set": ""}) is None


def test_whoever_installs_packages_does_it_with_that_environment() -> None:
    files = [ROOT / "noxfile.py", *(ROOT / "plugins").rglob("*.py"), *(ROOT / "nexus_tasks").rglob("*.py")]
    installing = {file for file in files if re.search(r"\"pip\", \"(install|sync)\"|\"venv\"", file.read_text())}
    assert installing >= {ROOT / "noxfile.py", ROOT / "plugins/modules/host_tools.py"}
    assert {file for file in installing if "installer_environment" not in file.read_text()} == set()
    # The one way out of the noxfile's own function is that of the lock, which installs nothing.
    assert (ROOT / "noxfile.py").read_text().count("include_outer_env=False") == 1
