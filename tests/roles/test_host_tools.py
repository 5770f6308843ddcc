"""Role host_tools' module, with real environments and a real pip that installs from a folder instead of the index."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
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


def test_wheels_that_are_brought_need_no_index(tmp_path: Path, one: str) -> None:
    wanted = one.splitlines()[-1] + "\n"
    arguments = {"path": str(tmp_path / "tools"), "sets": {"probe": wanted}, "wheels": str(tmp_path)}
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0"}
    result = modules.call(MODULE, arguments, **nowhere)
    assert result["changed"], result
    assert version(result) == "1.0"
    lacking = {**arguments, "sets": {"probe": wanted.replace("1.0", "3.0")}}
    assert "see that the bundle was made for a host with this Python" in modules.call(MODULE, lacking, **nowhere)["msg"]


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


def test_a_python_that_can_make_no_environment_is_told_with_the_package_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho ensurepip is not available >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    tools = modules.load(MODULE)
    with pytest.raises(tools.ToolsError) as told:
        tools.make_environment(str(tmp_path / "tools"))
    assert told.value.lacks_venv
    assert "install python3-venv (apt-get install python3-venv)" in str(told.value)
    assert "ensurepip is not available" in str(told.value)
    assert not (tmp_path / "tools").exists()


@pytest.mark.parametrize("way", ["variables", "file"])
def test_tools_are_installed_whatever_pip_is_set_up_for(tmp_path: Path, one: str, way: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "constraints.txt").write_text("nexus-probe==0.1\n")
    # As of packages that are installed for another Python: pip takes what it sees there for installed.
    (elsewhere / "nexus_probe-1.0.dist-info").mkdir(parents=True)
    (elsewhere / "nexus_probe-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: nexus-probe\nVersion: 1.0"
    )
    (elsewhere / "nexus_probe-1.0.dist-info/RECORD").write_text("")
    settings = {
        "target": str(elsewhere / "target"), "constraint": str(tmp_path / "constraints.txt"), "dry-run": "true",
        "no-binary": ":all:", "require-virtualenv": "true", "ignore-installed": "false",
    }  # fmt: skip
    (tmp_path / "pip.conf").write_text("[install]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    environment = {"PYTHONPATH": str(elsewhere), "PYTHONUSERBASE": str(elsewhere), "PIP_CONFIG_FILE": ""}
    if way == "file":
        environment["PIP_CONFIG_FILE"] = str(tmp_path / "pip.conf")
    else:
        environment |= {f"PIP_{key.upper().replace('-', '_')}": value for key, value in settings.items()}
        environment |= {"PIP_PYTHON": "/nowhere/python", "VIRTUALENV_WITHOUT_PIP": "1"}
    result = module(tmp_path / "tools", {"probe": one}, check=False, **environment)
    assert (result.get("msg"), result["installed"]) == (None, ["probe"])
    assert version(result) == "1.0"
    assert not (elsewhere / "target").exists()


def test_what_is_not_there_is_installed_again_though_it_was_written_down(tools: Path, one: str) -> None:
    module(tools, {"probe": one})
    (package,) = tools.glob("lib/python3*/site-packages/nexus_probe-1.0.dist-info")
    package.rename(tools / "elsewhere")
    assert module(tools, {"probe": one}, check=True)["installed"] == ["probe"]
    assert module(tools, {"probe": one})["installed"] == ["probe"]
    assert module(tools, {"probe": one})["installed"] == []


def test_success_is_not_written_down_where_nothing_is_there(tmp_path: Path, one: str) -> None:
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 0\n")  # as a pip that does nothing
    python.chmod(0o755)
    tools = modules.load(MODULE)
    with pytest.raises(tools.ToolsError, match="pip says that the probe tools are installed, and pip can't be found"):
        tools.install(str(tmp_path), "probe", one, None)


def test_no_code_of_a_source_package_runs_to_install_it(tmp_path: Path) -> None:
    tools, name = tmp_path / "tools", "nexus_probe-1.0"
    setup = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nimport setuptools\nsetuptools.setup()\n"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: nexus-probe\nVersion: 1.0\n", "setup.py": setup,
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "backend.py": setup,
    }  # fmt: skip
    path = tmp_path / f"{name}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            member = tarfile.TarInfo(f"{name}/{file}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    result = module(tools, {"probe": f"--no-index\n--find-links {tmp_path}\nnexus-probe==1.0 --hash=sha256:{digest}\n"})
    assert "pip could not install the probe tools into " in result["msg"]
    assert not (tmp_path / "ran").exists()
