"""Where measurements come from, asked of real repositories and this real machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nexus_tasks.core import provenance


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    run_git(tmp_path, "init", "--quiet")
    return tmp_path


def run_git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    argv = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def commit(repository: Path) -> str:
    (repository / "file").write_text("one")
    run_git(repository, "add", "file")
    run_git(repository, "commit", "--quiet", "--message", "one")
    return run_git(repository, "rev-parse", "HEAD")


def test_a_clean_checkout_is_its_commit(repository: Path) -> None:
    head = commit(repository)
    assert provenance.git(repository) == {"commit": head, "dirty": False}


@pytest.mark.parametrize("name", ["file", "new"])
def test_a_changed_or_added_file_makes_a_checkout_dirty(repository: Path, name: str) -> None:
    head = commit(repository)
    (repository / name).write_text("two")
    assert provenance.git(repository) == {"commit": head, "dirty": True}


def test_before_the_first_commit_there_is_none(repository: Path) -> None:
    (repository / "file").write_text("one")
    assert provenance.git(repository) == {"commit": None, "dirty": True}


def test_a_folder_inside_of_somebody_elses_repository_has_no_commit(repository: Path) -> None:
    commit(repository)
    inner = repository / "site-packages"
    inner.mkdir()
    assert provenance.git(inner) == {"commit": None, "dirty": None}


def test_without_git_the_revision_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(repository)
    monkeypatch.setenv("PATH", str(repository))
    assert provenance.git(repository) == {"commit": None, "dirty": None}


def test_the_processor_is_named_by_the_kernel_or_by_its_architecture(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7763\n\nprocessor\t: 1\nmodel name\t: other\n")
    assert provenance.cpu_model(cpuinfo) == "AMD EPYC 7763"
    cpuinfo.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert provenance.cpu_model(cpuinfo)
    assert provenance.cpu_model(tmp_path / "gone")


def test_the_client_is_this_machine() -> None:
    client = provenance.client()
    assert client["cpu_count"] >= 1
    assert client["memory_mib"] > 100
    assert all(client[key] for key in ("hostname", "os", "python", "cpu"))
