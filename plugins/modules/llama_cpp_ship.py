#!/usr/bin/python
"""Ansible module: a release of llama.cpp as one file, to be taken from the host that built it to another."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_cpp_ship
short_description: Pack a release of llama.cpp into an archive, or put one in place
description:
  - With C(state=packed) the release's folder becomes a tar file beside it.
  - With C(state=unpacked) such a file becomes the release. It gets its name last, by a rename, after every file was
    compared with the manifest and llama-server was started on this host; the archive is removed.
options:
  state:
    description: Which way it goes.
    choices: [packed, unpacked]
    required: true
    type: str
  prefix:
    description: The folder that holds releases/.
    type: path
    required: true
  name:
    description: The release's name.
    type: str
    required: true
  archive:
    description: The file. By default C(prefix/releases/.NAME.tar).
    type: path
  built_on:
    description: The host that built it, for messages.
    type: str
    default: ""
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Pack the release
  llama.nexus.llama_cpp_ship:
    state: packed
    prefix: /opt/llama-nexus
    name: b11434-cuda89-1f3a90c2
"""
RETURN = r"""
archive:
  description: The file's path.
  returned: always
  type: str
manifest:
  description: The release's manifest.
  returned: always
  type: dict
"""

import dataclasses
import errno
import os
import shutil

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import put_in_place, sha256_of
from ..module_utils.hostlib.manifests import MANIFEST, Manifest
from ..module_utils.hostlib.programs import ProgramError, run, with_environment
from ..module_utils.llama_cpp.errors import ReleaseError
from ..module_utils.llama_cpp.release import known_flags, read_manifest
from ..module_utils.llama_cpp.space import free_mib, no_space

TAR_SECONDS = 3600  # of gigabytes, on a disk that is slow


def tar(*arguments: str) -> None:
    try:
        done = run(["tar", *arguments], timeout=TAR_SECONDS, env=with_environment(LC_ALL="C.UTF-8"))
    except ProgramError as error:
        raise ReleaseError(str(error)) from error
    if done.status != 0:
        if "No space left on device" in done.output:
            raise OSError(errno.ENOSPC, done.output)
        raise ReleaseError(f"tar failed: {' / '.join(done.output.strip().splitlines()[:3])}")


def pack(prefix: str, name: str, archive: str) -> Manifest:
    folder = os.path.join(prefix, "releases", name)
    manifest = read_manifest(folder)
    if manifest is None:
        raise ReleaseError(f"there is no whole release {name} in {prefix}/releases")
    if free_mib(prefix) < (manifest.size >> 20) + 1:
        raise ReleaseError(no_space(prefix))
    partial = f"{archive}.{os.getpid()}"
    try:
        # All may read it: it is fetched by the user who logs in.
        tar("--create", "--file", partial, "--directory", folder, "--owner=0", "--group=0", "--numeric-owner", ".")
        os.chmod(partial, 0o644)
        os.replace(partial, archive)
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return manifest


def unpack(prefix: str, name: str, archive: str, built_on: str) -> Manifest:
    partial = os.path.join(prefix, "releases", f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        tar("--extract", "--no-same-owner", "--file", archive, "--directory", partial)
        manifest = read_manifest(partial)
        if manifest is None or manifest.name != name:
            raise ReleaseError(f"the archive {archive} from {built_on} does not hold the whole release {name}")
        for path, entry in manifest.files.items():
            if sha256_of(os.path.join(partial, path)) != entry.sha256:
                raise ReleaseError(
                    f"{path} of release {name} was damaged on its way from {built_on}: run the play again"
                )
        try:
            manifest = dataclasses.replace(manifest, flags=known_flags(partial, manifest.inputs["targets"]))
        except ReleaseError as error:
            raise ReleaseError(
                f"release {name}, built on {built_on}, does not run here: have it built on a host whose system is not "
                f"newer than this one's (llama_cpp_build_host). {error}"
            ) from error
        os.utime(os.path.join(partial, MANIFEST))  # the age of a release counts from when the host got it
        put_in_place(partial, os.path.join(prefix, "releases", name))
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["packed", "unpacked"], "required": True},
            "prefix": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "built_on": {"type": "str", "default": ""},
        },
    )
    prefix, name = module.params["prefix"], module.params["name"]
    archive = module.params["archive"] or os.path.join(prefix, "releases", f".{name}.tar")
    try:
        if module.params["state"] == "packed":
            manifest = pack(prefix, name, archive)
        else:
            manifest = unpack(prefix, name, archive, module.params["built_on"])
            os.unlink(archive)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        full = error.errno == errno.ENOSPC
        module.fail_json(msg=no_space(prefix) if full else f"{error.strerror}: {error.filename}")
    module.exit_json(changed=True, archive=archive, manifest=manifest.as_json())


if __name__ == "__main__":
    main()
