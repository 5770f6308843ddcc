"""Rules of modules and of tasks: how the one begins, and what the others make on a host."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

MODULES = sorted(ROOT.glob("plugins/modules/*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_a_module_begins_with_its_umask_and_a_home(path: Path) -> None:
    tree = ast.parse(path.read_text())
    [main] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    assert ast.unparse(main.body[0]) == "begin()"


def tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a file, those in blocks too."""
    found, left = [], list(yaml.safe_load(path.read_text()) or [])
    while left:
        task = left.pop(0)
        found.append(task)
        for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            left += task.get(part) or []
    return found


FILES = [*sorted(ROOT.glob("roles/*/tasks/*.yml")), *sorted(ROOT.glob("playbooks/**/*.yml"))]


def test_a_jobs_file_lies_in_a_folder_of_its_own_and_its_follower_is_told_where() -> None:
    jobs, followers = [], []
    for path in FILES:
        for task in tasks(path):
            if "async" in task:
                jobs.append(task["register"])
                assert re.fullmatch(r"\{\{ \w+_jobs \}\}", task["vars"]["ansible_async_dir"]), path
            if "llama.nexus.follow" in task:
                followers.append(task["llama.nexus.follow"]["job"].strip("{} "))
    assert len(jobs) == 7
    assert sorted(jobs) == sorted(followers)


def test_what_tasks_make_has_a_mode_of_its_own() -> None:
    makers = ("file", "copy", "template", "get_url", "unarchive", "assemble", "blockinfile", "lineinfile")
    without = []
    for path in FILES:
        for task in tasks(path):
            for name in makers:
                made = task.get(f"ansible.builtin.{name}")
                if made and made.get("state") not in ("absent", "link") and "mode" not in made:
                    without.append(f"{path.relative_to(ROOT)}: {task['name']}")
    assert without == []
