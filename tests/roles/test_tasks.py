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


# The services' modules share their main program: it begins for them.
SHARED_MAIN = ROOT / "plugins/module_utils/service/module.py"


def first_statement(path: Path, function: str) -> str:
    """What a module-level function does first, without its docstring."""
    tree = ast.parse(path.read_text())
    [node] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return ast.unparse(body[0])


@pytest.mark.parametrize("path", MODULES, ids=[path.stem for path in MODULES])
def test_a_module_begins_with_its_umask_and_a_home(path: Path) -> None:
    first = first_statement(path, "main")
    if first.startswith("run_module("):
        first = first_statement(SHARED_MAIN, "run_module")
    assert first == "begin()"


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
    assert len(jobs) == 9
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


def test_a_playbooks_first_play_sees_whether_ansible_is_set_up_as_the_project_needs_it() -> None:
    playbooks = sorted(ROOT.glob("playbooks/*.yml"))
    assert playbooks
    first = {path.name: yaml.safe_load(path.read_text())[0]["hosts"] for path in playbooks}
    assert {
        name for name, hosts in first.items() if not re.fullmatch(r"{{ lookup\('fleet', '[\w:-]+'\) }}", hosts)
    } == set()
    # A role that is listed is looked for before that.
    assert [path.name for path in playbooks for play in yaml.safe_load(path.read_text()) if "roles" in play] == []


def told_apart() -> list[Path]:
    """The files in which something could be told apart by hand that one function tells apart."""
    own = {"connections.py", "task_results.py"}
    python = [path for folder in ("plugins", "nexus_tasks") for path in (ROOT / folder).rglob("*.py")]
    return [path for path in [*FILES, *python] if path.name not in own]


@pytest.mark.parametrize(
    ("pattern", "function"),
    [
        (r"ansible_connection.{0,30}(==|!=| in ).{0,5}['\"(]", "hostlib/connections.py"),  # has full names as well
        (r"ansible_failed_result\.msg", "hostlib/task_results.py"),  # of a loop it only says that items failed
    ],
)
def test_what_has_a_function_is_not_told_apart_by_hand(pattern: str, function: str) -> None:
    assert [str(path) for path in told_apart() if re.search(pattern, path.read_text())] == [], f"see {function}"
