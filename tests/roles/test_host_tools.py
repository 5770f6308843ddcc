"""Role host_tools' module, with real environments and a real pip that installs from a folder instead of the index."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests import modules
from tests.conftest import ROOT

MODULE = ROOT / "plugins/modules/host_tools.py"


def wheel(folder: Path, version: str) -> str:
    """Write a package into the folder; returns the requirements that ask for it."""
    path = folder / f"nexus_probe-{version}-py3-none-any.whl"
    info = f"nexus_probe-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nexus_probe.py", f'VERSION = "{version}"\n')
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: nexus-probe\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"--no-index\n--find-links {folder}\nnexus-probe=={version} --hash=sha256:{digest}\n"


def module(path: Path, sets: dict[str, str], *, check: bool = False, **environment: str) -> dict[str, Any]:
    """Call the module as Ansible does on a host."""
    arguments = {"path": str(path), "sets": sets, "_ansible_check_mode": check}
    return modules.call(MODULE, arguments, **environment)


def version(result: dict[str, Any]) -> str:
    """The version of the package that the environment's interpreter sees."""
    code = "import nexus_probe; print(nexus_probe.VERSION)"
    done = subprocess.run([result["python"], "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that the tests of this file change one after the other."""
    return tmp_path_factory.mktemp("host") / "prefix/tools"


@pytest.fixture
def one(tmp_path: Path) -> str:
    """Requirements of the first version."""
    return wheel(tmp_path, "1.0")


def test_check_mode_says_what_would_be_installed_and_makes_nothing(tmp_path: Path, one: str) -> None:
    result = module(tmp_path / "prefix/tools", {"probe": one}, check=True)
    assert (result["changed"], result["installed"]) == (True, ["probe"])
    assert not (tmp_path / "prefix").exists()


def test_a_set_is_installed_once_and_again_when_it_changes(tools: Path, tmp_path: Path, one: str) -> None:
    first = module(tools, {"probe": one, "empty": ""})
    assert (first["changed"], first["installed"], version(first)) == (True, ["empty", "probe"], "1.0")
    again = module(tools, {"probe": one})
    assert (again["changed"], again["installed"]) == (False, [])
    newer = module(tools, {"probe": wheel(tmp_path, "2.0"), "empty": ""})
    assert (newer["changed"], newer["installed"], version(newer)) == (True, ["probe"], "2.0")


def test_what_pip_could_not_install_is_told_and_tried_again(tools: Path, one: str) -> None:
    tampered = one.replace("sha256:", "sha256:0000")[:-5] + "\n"
    for _ in range(2):
        result = module(tools, {"probe": tampered})
        assert result["failed"]
        assert "pip could not install the probe tools into " in result["msg"]
        assert "check that this host reaches a package index (pip config list). It said: " in result["msg"]
        assert "\n" not in result["msg"]
    assert module(tools, {"probe": one})["changed"]


def test_an_environment_whose_interpreter_is_gone_is_made_anew(tools: Path, one: str) -> None:
    module(tools, {"probe": one})
    python = tools / "bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    result = module(tools, {"probe": one})
    assert (result["installed"], version(result)) == (["probe"], "1.0")


def test_a_python_that_can_make_no_environment_is_told_with_the_package_it_lacks(tmp_path: Path, one: str) -> None:
    for maker in ("venv", "virtualenv"):
        (tmp_path / f"{maker}.py").write_text("raise SystemExit('ensurepip is not available')\n")
    result = module(tmp_path / "tools", {"probe": one}, PYTHONPATH=str(tmp_path))
    assert result["lacks_venv"]
    assert "install python3-venv (apt-get install python3-venv)" in result["msg"]
    assert "ensurepip is not available" in result["msg"]
    assert not (tmp_path / "tools").exists()
