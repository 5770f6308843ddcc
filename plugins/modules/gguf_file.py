#!/usr/bin/python
"""Ansible module: a verified GGUF file on this host, from a path, a URL or the Hugging Face hub."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gguf_file
short_description: Have a verified GGUF model
description:
  - Fetches a model into C(dir) under the name C(<name>.gguf), or takes one where it lies (C(path)). One in several
    files becomes C(<name>-00001-of-00003.gguf) and so on; they are fetched side by side.
  - A model counts as there when the record beside it (C(<name>.gguf.nexus.json)) names the same source and each
    file's size and modification time are those of the record; then nothing is read again.
  - Files take their final names only after the headers, sizes and sha256 of all of them were found right. What was
    there before stays until then.
  - A download that breaks off leaves a C(….partial) file, which the next run continues if the server still has the
    same file. Files that are whole are not fetched again.
options:
  name:
    description: Name of the model.
    type: str
    required: true
  dir:
    description: Folder of the models and of their records.
    type: path
    required: true
  state:
    description:
      - C(present) has the file; C(probed) only says whether it is there. In check mode C(probed) reports the
        change that C(present) would make.
    type: str
    choices: [present, probed]
    default: present
  profile:
    description: Where the model comes from. One of C(path), C(url), C(urls), C(repo) and C(generator).
    type: dict
    required: true
    suboptions:
      path:
        description:
          - A file on this host, used where it lies. Of a model in several files it is the first, as in
            C(model-00001-of-00003.gguf), and the others lie beside it.
        type: path
      url:
        description:
          - Where to download the file from; needs C(sha256). User, password and query are told in no result, record or
            error.
        type: str
      urls:
        description: The same of a model in several files, all of them in their order.
        type: list
        elements: dict
        suboptions:
          url:
            description: As C(url).
            type: str
            required: true
          sha256:
            description: What the file's sha256 must be.
            type: str
            required: true
      repo:
        description: >-
          A repository of the Hugging Face hub; needs C(file) or C(files) here, and C(files) or C(mirror) beside
          the profile.
        type: str
      file:
        description: The file's name in the repository.
        type: str
      files:
        description: The files of a model in several, all of them in their order.
        type: list
        elements: dict
        suboptions:
          file:
            description: The file's name in the repository.
            type: str
            required: true
          sha256:
            description: What its sha256 must be.
            type: str
      revision:
        description: Branch, tag or commit of the repository.
        type: str
        default: main
      generator:
        description: What made the file that was put at C(<name>.gguf.partial).
        type: str
      sha256:
        description: What the file's sha256 must be; with C(path) of a model in several files it is that of the first.
        type: str
  generator_version:
    description: Version of the generator; a file that another version made is made anew.
    type: str
  files:
    description:
      - The model's files where somebody has looked them up before, at C(endpoint); they come from there then, whatever
        the profile's source. Those of the hub are looked up by the action C(hub_files).
    type: list
    elements: dict
    suboptions:
      path:
        description: The path of the file's address, below that of C(endpoint).
        type: str
        required: true
      size_bytes:
        description: Its size, where it is known.
        type: int
      sha256:
        description: The sha256 that it must have.
        type: str
        required: true
  endpoint:
    description: Address below which C(files) are; without it that of the hub.
    type: str
  token:
    description: Access token for C(endpoint), which no address that it redirects to gets.
    type: str
  mirror:
    description:
      - An address (http, https or file) of a folder that has the files of C(repo) as C(REPO/FILE). Hashes that the
        profile lacks stand in C(REPO/SHA256SUMS) there.
    type: str
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have a model from the hub
  llama.nexus.gguf_file:
    name: qwen3-0.6b
    dir: /opt/llama-nexus/models
    profile:
      repo: Qwen/Qwen3-0.6B-GGUF
      file: Qwen3-0.6B-Q8_0.gguf
    files: "{{ hub.files }}"
"""
RETURN = r"""
present:
  description: Whether the wanted file is there and verified.
  returned: always
  type: bool
why:
  description: Why it is not, or what was done.
  returned: always
  type: str
model:
  description: The file. Its size and hash are null while it is not there.
  returned: always
  type: dict
  contains:
    path:
      description: Where it is, or will be.
      type: str
    size_bytes:
      description: Its size.
      type: int
    sha256:
      description: Its hash.
      type: str
    parts:
      description: The same of the further files of a model in several.
      type: list
      elements: dict
"""

import errno

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gguf_model.errors import ModelError, no_space, one_line
from ..module_utils.gguf_model.model_file import ModelFile
from ..module_utils.hostlib import masking
from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.gguf import GgufError
from ..module_utils.hostlib.locks import LockError

ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "dir": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "probed"], "default": "present"},
    "profile": {
        "type": "dict",
        "required": True,
        "options": {
            "path": {"type": "path"},
            "url": {"type": "str", "no_log": True},  # which may hold a password or a signature
            "urls": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "url": {"type": "str", "required": True, "no_log": True},
                    "sha256": {"type": "str", "required": True},
                },
            },
            "repo": {"type": "str"},
            "file": {"type": "str"},
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {"file": {"type": "str", "required": True}, "sha256": {"type": "str"}},
            },
            "revision": {"type": "str", "default": "main"},
            "generator": {"type": "str"},
            "sha256": {"type": "str"},
        },
        "mutually_exclusive": [("path", "url", "urls", "repo", "generator"), ("file", "files")],
        "required_one_of": [("path", "url", "urls", "repo", "generator")],
        "required_by": {"url": "sha256", "file": "repo", "files": "repo"},
    },
    "generator_version": {"type": "str"},
    "files": {
        "type": "list",
        "elements": "dict",
        "options": {
            "path": {"type": "str", "required": True},
            "size_bytes": {"type": "int"},
            "sha256": {"type": "str", "required": True},
        },
    },
    "endpoint": {"type": "str", "no_log": True},  # which may hold a password
    "token": {"type": "str", "no_log": True},
    "mirror": {"type": "str", "no_log": True},  # which may hold a password
}


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    profile = module.params["profile"]
    for url in (
        profile["url"],
        *(entry["url"] for entry in profile["urls"] or ()),
        module.params["endpoint"],
        module.params["mirror"],
    ):
        if url and masking.addresses(url) == url:
            module.no_log_values.discard(url)  # it holds no secret, and errors that name it should
    wanted = ModelFile(module.params)

    def fail(problem: Exception | str) -> None:
        module.fail_json(msg=f"model {wanted.name}: {one_line(problem, module.params['token'])}")

    changed = False
    try:
        present, why, record = wanted.probe()
        if module.params["state"] == "probed" or module.check_mode:
            changed = module.check_mode and not present
        elif not present:
            changed, why = wanted.have()
            present, _, record = wanted.probe()
    except (ModelError, GgufError, LockError) as error:
        fail(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fail(no_space(wanted.dir))
        remedy = "let the play's user write there, or set gguf_model_dir to a folder of its own"
        fail(f"{error}: {remedy}" if isinstance(error, PermissionError) else error)
    finally:
        if module.params["state"] == "present":
            wanted.progress.end()
    module.exit_json(
        changed=changed,
        present=present,
        why=why,
        model=wanted.found(record if present else {}),
    )


if __name__ == "__main__":
    main()
