"""The collection's filters in tasks."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT, ansible

TASK = "    - ansible.builtin.debug: {msg: '{{ {} | llama.nexus.llama_server_model_names }}'}\n"
# What Ansible says when it loads a file anew; of one that it had already it says where it had that from.
LOADING = re.compile(r"Loading FilterModule 'ansible_collections\.llama\.nexus\.plugins\.filter\.(\w+)' from \S+$")


def test_files_of_filters_are_loaded_once_however_many_tasks_use_one(tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    play.write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks:\n{TASK}{TASK}")
    lines = ansible(play, "-i", "localhost,", "-c", "local", ANSIBLE_DEBUG="1").stdout.splitlines()
    files = [path.stem for path in (ROOT / "plugins/filter").glob("*.py")]
    assert Counter(found[1] for line in lines if (found := LOADING.search(line))) == dict.fromkeys(files, 1)
