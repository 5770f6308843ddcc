"""The releases in the record of a deployment: the real role, with a small tree of llama.cpp's shape."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from nexus_tasks.records import store
from nexus_tasks.records.deployment_rows import ReleaseRow
from nexus_tasks.records.store import DeploymentRecord
from tests.conftest import ROOT, ansible, cache_folder
from tests.roles import llama_cpp_tree
from tests.support.known import known

TOKENS = ("tok-4f1e-user", "tok-77aa-signature")


@dataclass(frozen=True)
class Built:
    """Records of a --check, of a first run, and of one with another flag on one host that keeps one release."""

    check: DeploymentRecord
    first: DeploymentRecord
    second: DeploymentRecord
    manifests: dict[str, Any]
    """Those of the first run, by the name of the release."""
    output: str
    text: str


@pytest.fixture(scope="module")
def built(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A host that builds for itself and for two others, one whose source is not there, one without the GPU it needs."""
    folder = tmp_path_factory.mktemp("built")
    tree = llama_cpp_tree.make(folder)
    source = {"llama_cpp_source": "archive", "llama_cpp_archive_sha256": tree.sha256}
    archive = {**source, "llama_cpp_archive": str(tree.archive)}
    gone = f"http://ops:{TOKENS[0]}@127.0.0.1:9/llama.cpp.tar.gz?signature={TOKENS[1]}"
    hosts: dict[str, Any] = {
        "rig": archive,
        "edge-1": {**archive, "llama_cpp_build_host": "rig"},
        "edge-2": {**archive, "llama_cpp_build_host": "rig"},
        "lost": {**source, "llama_cpp_archive": gone},
        "blind": {**archive, "llama_cpp_require_gpu": True},
    }
    shared = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "llama_nexus_prefix": f"{folder}/{{{{ inventory_hostname }}}}",
        "llama_nexus_tools": str(cache_folder() / "tools"),
        "llama_nexus_jobs": "{{ llama_nexus_prefix }}/jobs",
        "llama_cpp_ref": "b1",
        "llama_cpp_commit": "c" * 40,
        "llama_cpp_targets": ["llama-server"],
        "llama_cpp_backend": "cpu",
    }
    inventory = folder / "hosts.json"
    retain = {
        "llama.nexus.llama_cpp_retain": {"prefix": "{{ llama_nexus_prefix }}", "keep": "{{ keep }}", "used": []},
        "when": "keep is defined",
    }
    play = {"hosts": "all", "gather_subset": ["!all", "!min", "user"], "roles": ["llama_cpp"], "post_tasks": [retain]}
    (folder / "deploy.yml").write_text(yaml.safe_dump([play]))

    def run(*options: str) -> str:
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
        environment = {"NEXUS_RESULTS": str(folder / "results"), "ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
        return ansible("-i", inventory, folder / "deploy.yml", *options, check=False, **environment).stdout

    output = run("--check") + run()
    paths = folder.glob("*/releases/*/manifest.json")
    manifests = {path.parent.name: json.loads(path.read_text()) for path in paths}
    hosts["rig"] = {**archive, "llama_cpp_cmake_options": {"FLAG": "1"}}
    output += run("--limit", "rig,edge-1", "-e", "keep=1")
    found = store.paths("deployment", folder / "results")
    check, first, second = (store.load(path, "deployment") for path in found)
    return Built(check, first, second, manifests, output, "".join(path.read_text() for path in found))


def releases_of(record: DeploymentRecord) -> dict[str, ReleaseRow]:
    return {row.host: row for row in record.releases}


def test_a_check_records_the_releases_that_would_be_made(built: Built) -> None:
    rows = releases_of(built.check)
    for host in ("rig", "edge-1", "edge-2"):
        assert (rows[host].how, rows[host].build, rows[host].releases) == ("planned", None, []), built.output
        assert rows[host].name == releases_of(built.first)[host].name
        assert known(rows[host].inputs)["ref"] == "b1"


def test_a_release_is_recorded_with_what_its_manifest_tells_and_where_it_was_built(built: Built) -> None:
    rows = releases_of(built.first)
    assert {host: (rows[host].how, rows[host].source) for host in ("rig", "edge-1", "edge-2")} == {
        "rig": ("built", "rig"),
        "edge-1": ("taken", "rig"),
        "edge-2": ("taken", "rig"),
    }
    for host in ("rig", "edge-1", "edge-2"):
        manifest = built.manifests[known(rows[host].name)]
        assert rows[host].inputs == manifest["inputs"]
        left_out = {"name", "inputs", "flags", "files", "links"}
        told = {key: value for key, value in manifest.items() if key not in left_out}
        assert msgspec.to_builtins(rows[host].build) == told
        assert rows[host].error is None
    assert known(rows["edge-1"].inputs)["cpu"] == "portable"
    assert rows["edge-1"].releases == [rows["edge-1"].name]
    # What a host built for others lies with it, too.
    assert set(known(rows["rig"].releases)) == {rows["rig"].name, rows["edge-1"].name}
    assert "libllama" not in built.text


def test_a_release_is_recorded_as_soon_as_it_is_there(built: Built) -> None:
    lines = [json.loads(line) for line in built.first.path.read_text().splitlines()]
    places = {row["host"]: place for place, row in reversed(list(enumerate(lines))) if row["type"] == "release"}
    rows_of_hosts = [place for place, row in enumerate(lines) if row["type"] == "host"]
    assert all(places[host] < rows_of_hosts[0] < places["lost"] for host in ("rig", "edge-1", "edge-2"))


def test_a_release_that_is_there_already_and_those_that_were_removed_are_recorded(built: Built) -> None:
    rows, before = releases_of(built.second), releases_of(built.first)
    assert rows.keys() == {"rig", "edge-1"}
    assert rows["edge-1"] == msgspec.structs.replace(before["edge-1"], how="there", source=None)
    assert (rows["rig"].how, known(rows["rig"].inputs)["cmake_options"]) == ("built", {"FLAG": "1"})
    assert rows["rig"].releases == [rows["rig"].name]
    assert set(rows["rig"].removed) == set(known(before["rig"].releases))


def test_a_host_that_did_not_get_its_release_says_why(built: Built) -> None:
    rows = releases_of(built.first)
    lost, blind = rows["lost"], rows["blind"]
    assert (lost.how, lost.build, lost.releases) == ("failed", None, [])
    assert known(lost.name).startswith("b1-cpu-")
    assert "cannot fetch http://127.0.0.1:9/llama.cpp.tar.gz: " in known(lost.error)
    assert (blind.how, blind.name, blind.inputs) == ("failed", None, None)
    assert "no working NVIDIA GPU" in known(blind.error)


def test_passwords_and_signatures_of_sources_are_told_nowhere(built: Built) -> None:
    for token in TOKENS:
        assert token not in built.output + built.text
    assert known(releases_of(built.first)["lost"].inputs)["source"]["url"] == "http://127.0.0.1:9/llama.cpp.tar.gz"
