"""Builds a release of llama.cpp: fetched, compiled, installed. Python 3.9's standard library only.

A release gets its name last, by a rename; a build that was cut short is taken up where it stopped.
"""

from __future__ import annotations

import datetime
import errno
import os
import platform
import re
import shutil
import time
from typing import Any

from ..hostlib import locks
from ..hostlib.files import put_in_place, write_line
from ..hostlib.manifests import Manifest
from ..hostlib.programs import output_of
from .compilation import bundle_cuda, cache_hits, compile_programs, require_web_page
from .errors import ReleaseError
from .job import Job, objects_of
from .release import known_flags, read_manifest, write_manifest
from .source import Source
from .space import free_mib, no_space

# What the build's folder and the release need together, measured with the pinned version.
BUILD_MIB = {"cpu": 400, "cuda": 2500}
NPM_MIB = 700  # the packages that the web page is made with
LOCK = ".build.lock"


def build(params: dict[str, Any], inputs: dict[str, Any], name: str, tools: dict[str, Any]) -> tuple[Manifest, str]:
    """Make a release, or take the one that another process was making: its manifest and the log of the build."""
    prefix, path = params["prefix"], os.path.join(params["prefix"], "releases", name)

    def say(line: str) -> None:
        if params["progress"]:
            write_line(params["progress"], line)

    try:
        # A build outlives the controller that started it: wait for it and take what it made.
        with locks.held(os.path.join(prefix, LOCK), f"build of {name}", waiting=say) as lock:
            manifest = read_manifest(path, inputs)
            if manifest is not None:
                return manifest, ""
            require_room(prefix, inputs, name)
            job = Job(prefix, name, lock=lock, progress=params["progress"])
            return _make(job, params, inputs, tools), job.log
    except locks.LockError as error:
        raise ReleaseError(str(error)) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ReleaseError(no_space(prefix)) from error
        raise ReleaseError(f"the build stopped: {error}") from error


def require_room(prefix: str, inputs: dict[str, Any], name: str) -> None:
    """Stop before a build for which there is no room; one that was begun has taken most of it."""
    need = BUILD_MIB[inputs["backend"]] + (NPM_MIB if inputs.get("web_page") == "npm" else 0)
    if not os.path.isdir(objects_of(prefix, name)) and free_mib(prefix) < need:
        raise ReleaseError(f"a build needs about {need} MiB: {no_space(prefix)}")


def _make(job: Job, params: dict[str, Any], inputs: dict[str, Any], tools: dict[str, Any]) -> Manifest:
    """Make the release and return its manifest."""
    started = time.monotonic()
    job.make_folders()
    source = Source(job, inputs, origin=params.get("source"), tools_path=params["tools_path"])
    if inputs["source"]["kind"] == "binary":
        return _install(job, inputs, source.binaries(), started=started, cache=None, compiler=None)
    source.fetch()
    compile_programs(job, inputs, tools, params["jobs"])
    require_web_page(job, inputs)
    built = os.path.join(job.objects, "bin")
    shutil.copy2(os.path.join(job.source, "LICENSE"), os.path.join(built, "LICENSE"))
    if inputs["backend"] == "cuda":
        job.say("copying the CUDA libraries")
        bundle_cuda(built, tools["nvcc"])
    version_lines = (output_of([tools["compiler"], "--version"]) or "").splitlines()
    compiler = version_lines[0] if version_lines else None
    return _install(job, inputs, built, started=started, cache=cache_hits(job), compiler=compiler)


def _install(
    job: Job, inputs: dict[str, Any], built: str, *, started: float, cache: dict[str, int] | None, compiler: str | None
) -> Manifest:
    """Make what was built a release; its manifest."""
    job.say("installing")
    partial = os.path.join(job.prefix, "releases", f".{job.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(os.path.join(partial, "bin"))
    for name in sorted(os.listdir(built)):
        if name in inputs["targets"] or re.search(r"\.so(\.\d+)*$", name):
            shutil.copy2(os.path.join(built, name), os.path.join(partial, "bin", name), follow_symlinks=False)
    if os.path.exists(os.path.join(built, "LICENSE")):
        shutil.copy2(os.path.join(built, "LICENSE"), os.path.join(partial, "LICENSE"))
    manifest = Manifest(
        name=job.name,
        inputs=inputs,
        flags=known_flags(partial, inputs["targets"]),
        compiler=compiler,
        ccache=cache,
        built_on=platform.node(),
        built_at=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        build_seconds=round(time.monotonic() - started, 1),
    )
    whole = write_manifest(partial, manifest)
    put_in_place(partial, job.final)
    shutil.rmtree(job.work)
    return whole
