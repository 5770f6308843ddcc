#!/usr/bin/python
"""Ansible module: the key of a package repository, held against its fingerprint before it is trusted."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_engine_key
short_description: Fetch the OpenPGP key of a package repository
description:
  - The file must hold one key, and that of this fingerprint; else nothing is written.
  - A key that is there is not fetched again.
options:
  url:
    description: Where the key is, in either form.
    type: str
    required: true
  fingerprint:
    description: The fingerprint of its primary key.
    type: str
    required: true
  path:
    description: Where it goes, as text in a file named C(.asc), else in binary form.
    type: path
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Trust a repository
  llama.nexus.container_engine_key:
    url: https://nvidia.github.io/libnvidia-container/gpgkey
    fingerprint: C95B321B61E88C1809C4F759DDCAE044F796ECB0
    path: /etc/apt/keyrings/nvidia-container-toolkit.gpg
"""


from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import write_file
from ..module_utils.hostlib.http_client import basic_authorization, open_address, without_user
from ..module_utils.openpgp import MAX_BYTES, OpenPgpError, OtherKey, armored, binary, require_key, whole_fingerprint


def is_there(path: str, wanted: str) -> bool:
    try:
        with open(path, "rb") as stream:
            require_key(stream.read(), wanted)
    except (OSError, OpenPgpError):
        return False
    return True


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "fingerprint": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    url, path = module.params["url"], module.params["path"]
    try:
        wanted = whole_fingerprint(module.params["fingerprint"])
    except OpenPgpError as error:
        module.fail_json(msg=f"the fingerprint of the key {url}: {error}")
    changed = not is_there(path, wanted)
    if changed and not module.check_mode:
        try:
            with open_address(without_user(url), authorization=basic_authorization(url)) as answer:
                data = answer.read(MAX_BYTES)
        except Exception as error:  # urllib's and ssl's have no common one below this
            module.fail_json(msg=f"the repository's key {url} can't be fetched ({error}): name a mirror that has it")
        try:
            require_key(data, wanted)
        except OtherKey as error:
            module.fail_json(msg=f"{url} holds {error}: nothing was trusted; verify a new key, and set its fingerprint")
        except OpenPgpError as error:
            module.fail_json(msg=f"{url} holds {error}, not one OpenPGP key: name the address of the repository's key")
        try:
            write_file(path, armored(data) if path.endswith(".asc") else binary(data), parents=True)
        except OSError as error:
            module.fail_json(msg=f"the key can't be written to {path}: {error.strerror}")
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
