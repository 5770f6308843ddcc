"""From source to a server that is deployed, to deployments that must be refused, and to the end of it."""

from __future__ import annotations

import json
import re
import shutil
import time
from typing import Any

from nexus_tasks.model_store import tiny_model
from plugins.module_utils.hostlib.manifests import Manifest
from plugins.module_utils.llama_cpp.release import read_manifest
from plugins.module_utils.llama_cpp.tools import find_compiler
from plugins.module_utils.nvidia import facts as nvidia_facts
from tests.conftest import free_port
from tests.gpu.rows import NotRun, Report
from tests.gpu.steps.place import Place, instance_log, require_model
from tests.gpu.steps.playbooks import play, reason
from tests.gpu.steps.waiting import answers


def build(place: Place, report: Report) -> None:
    """Build the pinned version for this machine's GPU, through the role."""
    place.declare()
    if not any((place.prefix / "releases").glob("*")):
        here = nvidia_facts.toolkits()
        if place.gpus and not here:
            raise NotRun("there is no CUDA compiler (nvcc) on PATH or in /usr/local/cuda*, and none was brought along")
        if not find_compiler():
            raise NotRun("there is no C++ compiler, and none was brought along")
    status, said = play("playbooks/build.yml", "-l", "local")
    if status != 0:
        report.add("release", False, reason(said))
        return
    manifest = read_manifest(str(place.release)) or Manifest()
    inputs = manifest.inputs
    wanted = "cuda" if place.gpus else "cpu"
    report.add("release", inputs.get("backend") == wanted, place.release.name, f"it should be for {wanted}")
    report.add("compiled in", True, f"{manifest.build_seconds} s, ccache {manifest.ccache}")
    if place.gpus:
        bundled = sorted(name for name in manifest.files if re.search(r"lib(cudart|cublas)", name))
        mib = sum(manifest.files[name].size for name in bundled) >> 20
        report.add("CUDA libraries that it brings", bool(bundled), f"{len(bundled)}, {mib} MiB")


def model(place: Place, report: Report) -> None:
    """Write the model, which babbles."""
    started = time.monotonic()
    if not place.model.exists():
        tiny_model.write(place.model, shape=place.shape)
    size = place.model.stat().st_size / 2**20
    report.add("model", True, f"{size:.0f} MiB, written in {time.monotonic() - started:.0f} s")


def deploy(place: Place, report: Report) -> None:
    """Deploy it with every layer on the GPU, and show the role's own proof."""
    require_model(place)
    place.declare()
    status, said = play("deploy.yml", "-l", "local")
    proof = place.prefix / "instances/main/proof.json"
    if proof.exists():
        shutil.copy2(proof, place.details / "proof.json")
    if status != 0:
        report.add("deployment", False, reason(said))
        return
    shown = json.loads(proof.read_text())
    for check in shown["checks"]:
        found = check["found"] if check["ok"] else f"{check['found']}, not {check['expected']}"
        if check["check"] == "command line" and check["ok"]:
            found = f"{len(check['found'])} words, as declared"
        report.add(f"proof: {check['check']}", check["ok"], found, check["cause"])
    if place.gpus:
        names = {check["check"]: check for check in shown["checks"]}
        row = names.get("process on the GPU", {"found": "no such check", "expected": ""})
        report.add("nvidia-smi shows the server's process", "MiB" in str(row["expected"]), row["found"])
        report.add("buffers", True, shown["buffers_mib"])


def refusals(place: Place, report: Report) -> None:
    """The proof fails, and says why, where the GPU is not used as declared; the good server beside it stays."""
    instance_log(place)
    slow = {"min_decode_tps": 10_000_000}
    wrong: dict[str, tuple[dict[str, Any], str]] = {"too slow": (slow, "decode")}
    if place.gpus:
        wrong["no GPU visible"] = ({"environment": {"CUDA_VISIBLE_DEVICES": "-1"}}, "layers on the GPU")
    for name, (option, expected) in wrong.items():
        bad = {**place.instance, **option, "port": free_port()}
        more = {"llama_server_instances": {"main": place.instance, "wrong": bad}}
        status, said = play("deploy.yml", "-l", "local", "-e", json.dumps(more))
        told = reason(said)
        report.add(f"refused: {name}", status != 0 and expected in told, told if status else "it was deployed",
                   f"the reason should name: {expected}")  # fmt: skip
    url = f"http://127.0.0.1:{place.instance['port']}/health"
    report.add("the good one still serves", answers(url), url)


def stop(place: Place, report: Report) -> None:
    """End what was started."""
    if not (place.prefix / "instances").exists():
        return
    status, said = play("playbooks/stop.yml", "-l", "local")
    report.add("stopped", status == 0, "all servers" if status == 0 else reason(said))
