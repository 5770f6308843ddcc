"""llama-fit-params, asked on this machine or on a host of the inventory.

    answer = fit_tools.here(asked, release=None)
    answer = fit_tools.on_host(asked, "rig-1")

It gets headers alone: of a remote model a few MB pass through here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from nexus_tasks.core.errors import DeployError, UsageError
from nexus_tasks.fleet import inventory
from nexus_tasks.hostlib import fit_params, gpus
from nexus_tasks.model_store.cross_check import Answer, requests
from nexus_tasks.model_store.model_sources import copy_headers
from nexus_tasks.model_store.planning import Planning

MIB = 1 << 20


def here(asked: Planning, release: Path | None) -> Answer:
    """The figures of a release on this machine.

    Args:
        release: its folder; None finds one: on the PATH, or where deployments put it.

    Raises UsageError where there is none, and DeployError where it gives no figures.
    """
    program = _program(release)
    found = []
    with _headers(asked) as folders:
        for folder, sizes, words in folders:
            try:
                first = fit_params.lay_out(str(folder), sizes)
                found.append(tuple(fit_params.ask(str(program), first, words)))
            except fit_params.FitError as error:
                raise DeployError(
                    f"{program.parent.parent.name}: {error}", hint="try another release, or --engine analytic"
                ) from error
    return Answer(tuple(found), _free_here(), psutil.virtual_memory().available / MIB)


def _program(release: Path | None) -> Path:
    """The program of a release that is named, or that is found here."""
    if release is not None:
        places = [release / "bin" / fit_params.PROGRAM]
    else:
        on_path = shutil.which(fit_params.PROGRAM)
        own = Path.home() / ".local/share/llama-nexus" if os.geteuid() else Path("/opt/llama-nexus")
        places = [*([Path(on_path)] if on_path else []), own / "current" / "bin" / fit_params.PROGRAM]
    for place in places:
        if os.access(place, os.X_OK):
            return place.resolve()
    raise UsageError(
        f"there is no {places[-1]}",
        hint="name a release with --release DIR, ask a host with --on HOST, or have one here: nox -s quickstart",
    )


def _free_here() -> tuple[float, ...]:
    try:
        cells = [gpus.number(row["memory.free"]) for row in gpus.query(["memory.free"])]
    except gpus.SmiError:
        return ()
    return tuple(cell for cell in cells if cell is not None)


def on_host(asked: Planning, host: str) -> Answer:
    """The figures of the release that a host of the inventory serves with, and of its GPUs.

    Raises UsageError where it is not one host, and DeployError where it can't be asked or gives no figures.
    """
    sys.stderr.write(f"asking llama.cpp on {host}\n")
    with _headers(asked) as folders:
        models = [
            {
                "headers": str(folder),
                "files": [{"name": name, "size_bytes": size} for name, size in sizes],
                "words": words,
            }
            for folder, sizes, words in folders
        ]
        told, failures = inventory.answer(host, "playbooks/fit.yml", "fit_file", {"fit_models": models})
    if failures:
        raise DeployError("\n".join(f"{name}: {why}" for name, why in failures.items()), hint="mend it, or plan here")
    if len(told) != 1:
        names = ", ".join(one["host"] for one in told)
        raise UsageError(f"--on {host} is {len(told)} hosts: {names}", hint="name one of them")
    (one,) = told
    devices = tuple(tuple(fit_params.Device(*row) for row in rows) for rows in one["models"])
    return Answer(devices, tuple(map(float, one["gpus_free_mib"])), one["host_free_mib"])


@contextlib.contextmanager
def _headers(asked: Planning) -> Iterator[list[tuple[Path, list[tuple[str, int]], list[str]]]]:
    """For each model that is asked about a folder with its headers, their names and sizes, and the options."""
    with tempfile.TemporaryDirectory(prefix="llama-nexus-headers-") as base:
        made = []
        for number, (model, words) in enumerate(requests(asked)):
            folder = Path(base) / str(number)
            folder.mkdir()
            made.append((folder, copy_headers(model, asked.catalogue, folder), words))
        yield made
