"""The contents of a bundle gathered, and the bundle written that comes of them.

    collected = bundling.collect("rig-1", console=console, check=False)
    bundling.pack(Path("rig.bundle"), collected, progress)

Ansible has models and releases on the controller (playbooks/collect.yml); wheels come from pip's package index, images
from the Docker engine here.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from nexus_tasks.core.errors import DeployError
from nexus_tasks.core.provenance import ROOT
from nexus_tasks.core.text import memory, plural
from nexus_tasks.fleet import bundle, inventory
from nexus_tasks.fleet.bundle import About, Content, Progress
from nexus_tasks.hostlib.python_packages import installer_environment

MIB = 1 << 20
DOWNLOAD_S = 1800
SETS = {
    "supervisor": ROOT / "roles/host_tools/files/supervisor.txt",
    "telemetry": ROOT / "roles/telemetry/files/telemetry.txt",
}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Collected:
    """The needs of hosts, each as playbooks/collect.yml describes it, and by host why that is not known."""

    hosts: tuple[Row, ...]
    failures: Mapping[str, str]

    @property
    def models(self) -> dict[str, list[Row]]:
        """By name the files of each model."""
        return {name: files for host in self.hosts for name, files in host["models"].items()}

    @property
    def releases(self) -> dict[str, Row]:
        """By name the releases."""
        return {host["release"]["name"]: host["release"] for host in self.hosts}


def collect(pattern: str, *, check: bool, console: Console | None) -> Collected:
    """Have all that the hosts of a pattern need on the controller; with ``check`` only see what that would be.

    Raises DeployError and UsageError as :func:`nexus_tasks.fleet.inventory.answer` does.
    """
    hosts, failures = inventory.answer(
        pattern,
        "playbooks/collect.yml",
        "collected_file",
        console=console,
        options=["--check"] if check else [],
        hint="mend it and run it again: what was fetched is kept",
    )
    return Collected(tuple(hosts), failures)


def text(collected: Collected) -> str:
    """The contents, a line each."""
    lines = []
    for name, files in sorted(collected.models.items()):
        sizes = [file["size_bytes"] for file in files]
        amount = memory(sum(size or 0 for size in sizes) / MIB) if files else "on the controller"
        lines.append(f"model    {name}  {amount}")
    lines += [
        f"release  {name}  {'there' if release['present'] else 'to be built'}"
        for name, release in sorted(collected.releases.items())
    ]
    lines += [f"image    {host['image']}" for host in collected.hosts if host["image"]][:1]
    return "\n".join([*lines, f"for {plural(len(collected.hosts), 'host')}; wheels of the hosts' tools beside them"])


def pack(file: Path, collected: Collected, progress: Progress) -> int:
    """Write the bundle; the number of its bytes.

    Raises DeployError and UsageError.
    """
    images = sorted({host["image"] for host in collected.hosts if host["image"]})
    if len(images) > 1:
        raise DeployError(
            f"hosts have different base images, {' and '.join(images)}", hint="make a bundle for each of them"
        )
    with tempfile.TemporaryDirectory(prefix="llama-nexus-bundle-", dir=_room()) as temporary:
        folder = Path(temporary)
        contents = [*_models(collected), *_releases(collected)]
        contents += [Content(f"wheels/{wheel.name}", wheel) for wheel in _wheels(folder, collected.hosts)]
        contents += [_image(folder, image) for image in images]
        about = About(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"), hosts=[host["host"] for host in collected.hosts],
            models=sorted(collected.models), releases=sorted(collected.releases), image="".join(images),
        )  # fmt: skip
        size = bundle.write(file, about, contents, progress)
    for release in collected.releases.values():
        Path(release["path"]).unlink(missing_ok=True)
    return size


def _room() -> Path:
    """A folder for what is only packed: /tmp may be in memory."""
    folder = bundle.user_cache()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _models(collected: Collected) -> list[Content]:
    found: dict[str, Content] = {}
    for host in collected.hosts:
        folder = Path(host["models_folder"])
        for name, files in host["models"].items():
            for one in files:
                path = folder / one["path"].lstrip("/")
                found[path.name] = Content(f"models/{path.name}", path, one["sha256"])
            record = folder / f"{name}.gguf.nexus.json"
            found[record.name] = Content(f"models/{record.name}", record)
    return [found[name] for name in sorted(found)]


def _releases(collected: Collected) -> list[Content]:
    return [
        Content(f"releases/{name}.tar", Path(release["path"])) for name, release in sorted(collected.releases.items())
    ]


def _wheels(folder: Path, hosts: Sequence[Row]) -> list[Path]:
    """The wheels of the tools that the hosts get, for the Python and the processor of each."""
    wheels = folder / "wheels"
    for python, machine, telemetry in sorted({(one["python"], one["machine"], one["telemetry"]) for one in hosts}):
        for name in ["supervisor", *(["telemetry"] if telemetry else [])]:
            platforms = [f"manylinux_2_{minor}_{machine}" for minor in (28, 17)] + [f"manylinux2014_{machine}", "any"]
            command = [
                sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet",
                "--require-hashes", "--only-binary=:all:", "--no-deps", "--python-version", python,
                *(word for one in platforms for word in ("--platform", one)), "--dest", str(wheels),
                "-r", str(SETS[name]),
            ]  # fmt: skip
            _run(command, f"pip could not fetch the {name} tools", "see that the package index is in reach",
                 env=installer_environment(sys.executable))  # fmt: skip
    return sorted(wheels.iterdir())


def _image(folder: Path, image: str) -> Content:
    """A base image as a file; it is pulled where the engine here lacks it."""
    hint = f"run Docker on {platform.node()}, with {image} in reach or loaded"
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
        _run(["docker", "pull", "--quiet", image], f"{image} can't be pulled", hint)
    path = folder / bundle.image_file(image)
    _run(["docker", "save", "--output", str(path), image], f"{image} can't be saved", hint)
    return Content(f"images/{path.name}", path)


def _run(command: Sequence[str], what: str, hint: str, env: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=DOWNLOAD_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeployError(f"{what}: {error}", hint=hint) from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise DeployError(f"{what}: {last[0]}", hint=hint)
