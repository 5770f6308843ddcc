"""Images that hold a release: built from a base image on this host, loaded from an archive, or pulled."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from ...hostlib.files import sha256_of
from ...hostlib.instances import Instance, Release
from ..commands import attempt, cause, run
from ..errors import HostError

LABEL = "llama-nexus"


def have_image(config: Instance) -> str:
    """The image that holds the release: there already, built from a base image, or taken from an archive or registry.

    Raises HostError when it can't be had, or is not what was declared.
    """
    wanted, release = config.image or {}, config.release
    if "ref" in wanted:
        if not _image(wanted["ref"]):
            run("docker", "pull", "--quiet", wanted["ref"], timeout=3600)
        image: str = wanted["ref"]
    elif "archive" in wanted:
        image = _loaded(wanted["archive"], wanted["sha256"])
    else:
        image = _built(wanted["base"], release)
    labels = (_image(image) or {}).get("Config", {}).get("Labels") or {}
    held = [labels.get(f"{LABEL}.release"), labels.get(f"{LABEL}.path")]
    if held != [release.name, release.path]:
        raise HostError(
            f"image {image} holds release {held[0]} in {held[1]}, not {release.name} in {release.path}: build it "
            "again from that release, or declare the image of this one"
        )
    return image


def prune_images(used: list[str]) -> None:
    """Remove images of releases that nothing starts any more.

    Args:
        used: the folders of the releases that are kept; images of releases that lie elsewhere are not ours.
    """
    places = {os.path.dirname(path) for path in used}
    listing = run("docker", "images", "--filter", f"label={LABEL}.path", "--format", "{{.Repository}}:{{.Tag}}")
    for tag in listing.split():
        path = ((_image(tag) or {}).get("Config", {}).get("Labels") or {}).get(f"{LABEL}.path", "")
        if tag.startswith("llama-nexus/") and path not in used and os.path.dirname(path) in places:
            run("docker", "image", "rm", tag, check=False)


def _image(name: str) -> dict[str, Any] | None:
    inspected: list[dict[str, Any]] = json.loads(run("docker", "image", "inspect", name, check=False) or "[]")
    return inspected[0] if inspected else None


def _built(base: str, release: Release) -> str:
    """Build from the base image on this host, unless this release on this base was built before."""
    if not _image(base):
        run("docker", "pull", "--quiet", base, timeout=3600)
    image = _image(base)
    if not image:
        raise HostError(f"base image {base} is not there: load it on the host, or name one that can be pulled")
    made_of = hashlib.sha256(f"{image['Id']} {release.path}".encode()).hexdigest()
    tag = f"llama-nexus/llama-server:{release.name}-{made_of[:12]}"
    if _image(tag):
        return tag
    dockerfile = (
        f"FROM {base}\n"
        f'LABEL {LABEL}.release="{release.name}" {LABEL}.path="{release.path}"\n'
        f"COPY . {release.path}\n"
        # A library that the base image lacks is found now, not by the first start; the driver's comes with the GPU.
        f"RUN if ldd {release.path}/bin/llama-server | grep 'not found' | grep -v 'libcuda[.]so' > /tmp/missing; "
        'then echo "error: the base image lacks $(cat /tmp/missing)" >&2; exit 1; fi; rm /tmp/missing\n'
    )
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}  # the classic builder is part of every engine
    code, output = attempt(
        "docker", "build", "--quiet", "--tag", tag, "--file", "-", release.path, given=dockerfile, env=environment,
        timeout=3600,
    )  # fmt: skip
    if code != 0:
        raise HostError(f"image {tag} can't be built: {cause(output) or 'docker build says nothing'}")
    return tag


def _loaded(archive: str, sha256: str) -> str:
    """Load an image from a file of `docker save`, whose hash must be the declared one."""
    tag = f"llama-nexus/archive:{sha256[:12]}"
    if _image(tag):
        return tag
    try:
        digest = sha256_of(archive)
    except OSError as error:
        raise HostError(f"image archive {archive} can't be read ({error.strerror}): put it on the host") from error
    if digest != sha256:
        raise HostError(f"image archive {archive} has sha256 {digest}, not {sha256}: nothing was loaded")
    output = run("docker", "load", "--quiet", "--input", archive, timeout=3600)
    loaded = output.strip().rpartition(": ")[2]
    run("docker", "tag", loaded, tag)
    return tag
