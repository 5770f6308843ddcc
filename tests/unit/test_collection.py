"""The collection's archive: what hosts and users need of it, and nothing that lies about in a folder one works in."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import BIN, ROOT

# What a folder that somebody works in holds, whether or not git ignores it.
PLANTED = {
    ".venv/lib/python3.12/site-packages/x/__init__.py": "",
    ".venv/lib/python3.12/site-packages/x/plugins/modules/y.py": "",
    "results/benchmark/2026.jsonl": "{}",
    "reports/index.html": "<html>",
    "inventory/hosts.yml": "all: {}",
    "inventory/host_vars/rig/vault.yml": "$ANSIBLE_VAULT;1.1;AES256",
    "group_vars/gpu-hosts/vault.yml": "$ANSIBLE_VAULT;1.1;AES256",
    "notebooks/executed.ipynb": '{"cells": []}',
    "plugins/modules/__pycache__/gguf_file.cpython-312.pyc": "code",
    "plugins/modules/stale.pyc": "code",
    "plugins/module_utils/hostlib/.files.py.swp": "a draft",
    "roles/llama_server/files/models/tiny.gguf": "GGUF",
    ".env": "HF_TOKEN=hf_secret",
    "vault-password.txt": "sesame",
    "models/tiny.gguf": "GGUF",
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the archive that Ansible makes of a copy of the tree with all that planted."""
    folder = tmp_path_factory.mktemp("collection")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tree = folder / "tree"
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, tree / name
        if source.exists() or source.is_symlink():  # else it was removed and not committed yet
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    for name, text in PLANTED.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    made = subprocess.run(
        [BIN / "ansible-galaxy", "collection", "build", "--output-path", folder, tree],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    [archive] = folder.glob("llama-nexus-*.tar.gz")
    with tarfile.open(archive) as stream:
        return {member.name for member in stream.getmembers() if member.isfile()}


@pytest.mark.parametrize("name", list(PLANTED))
def test_nothing_local_is_packed(packed: set[str], name: str) -> None:
    assert name not in packed


def test_only_known_folders_are_packed(packed: set[str]) -> None:
    beside = {"MANIFEST.json", "FILES.json", "galaxy.yml", "README.md", "LICENSE", "CHANGELOG.md"}
    assert {name for name in packed if name.partition("/")[0] not in {"plugins", "roles", "meta"}} <= beside
    assert {Path(name).suffix for name in packed if "/" in name} <= {".py", ".yml", ".j2", ".md", ".txt", ".in"}


@pytest.mark.parametrize("pattern", ["plugins/**/*.py", "roles/*/**/*.yml", "roles/*/templates/**/*", "meta/*.yml"])
def test_all_of_these_is_packed(packed: set[str], pattern: str) -> None:
    wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern) if path.is_file()}
    assert wanted
    assert wanted <= packed


def test_hostlib_is_packed_as_files_and_every_file_of_a_role_too(packed: set[str]) -> None:
    assert "plugins/module_utils/hostlib/files.py" in packed
    wanted = {str(path.relative_to(ROOT)) for path in ROOT.glob("roles/*/files/**/*") if path.suffix in (".py", ".txt")}
    assert wanted <= packed
