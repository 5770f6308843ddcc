"""What goes into a bundle, as the hosts tell it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nexus_tasks.core.errors import DeployError
from nexus_tasks.fleet import bundling
from nexus_tasks.fleet.bundling import Collected


def host(name: str, **more: Any) -> dict[str, Any]:
    """A host as playbooks/collect.yml describes it."""
    files = [{"path": "/far.gguf", "size_bytes": 5 << 30, "sha256": "0" * 64}]
    release = {"name": "b1-cpu-0a1b", "path": "/gone/b1-cpu-0a1b.tar", "present": False}
    return {
        "host": name, "models": {"far": files}, "models_folder": "/gone", "release": release, "python": "3.11",
        "machine": "x86_64", "telemetry": False, "image": "", **more,
    }  # fmt: skip


def test_what_would_be_packed_is_told_once_for_all_hosts() -> None:
    told = bundling.text(Collected((host("a"), host("b", image="debian:12")), {}))
    assert told.splitlines() == [
        "model    far  5.00\N{NO-BREAK SPACE}GiB", "release  b1-cpu-0a1b  to be built", "image    debian:12",
        "for 2 hosts; wheels of the hosts' tools beside them",
    ]  # fmt: skip


def test_hosts_of_several_base_images_need_several_bundles(tmp_path: Path) -> None:
    collected = Collected((host("a", image="debian:12"), host("b", image="debian:13")), {})
    with pytest.raises(DeployError, match="hosts have different base images, debian:12 and debian:13"):
        bundling.pack(tmp_path / "x.bundle", collected, lambda what, done, total: None)
