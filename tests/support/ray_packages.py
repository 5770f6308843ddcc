"""Ray for tests: what requirements-ray.lock has beyond the environment, in a folder for PYTHONPATH."""

from __future__ import annotations

from pathlib import Path

from tests.support import wheels

ROOT = Path(__file__).resolve().parents[2]


def make(cache: Path) -> Path:
    """The folder, made on the first call: 75 MB are fetched, and take 200 MB of disk."""
    packages = wheels.added(ROOT / "requirements-ray.lock", ROOT / "requirements.lock")
    return wheels.kept(cache, "ray", packages, lambda folder: wheels.install(packages, folder))
