"""The instances that an action of the playbooks is about."""

from __future__ import annotations

import pytest

from plugins.plugin_utils.server_control import chosen, nowhere
from tests.server_rows import running


@pytest.mark.parametrize(
    ("action", "names", "expected"),
    [
        ("stop", [], ["main", "stopped", "never", "moved"]),
        ("start", [], ["main", "stopped", "moved"]),
        ("restart", [], ["main", "moved"]),
        ("restart", ["stopped"], ["stopped"]),
        ("rollback", [], ["moved"]),
        ("rollback", ["main", "elsewhere"], ["main"]),
    ],
)
def test_an_action_without_names_is_about_what_it_can_be_done_to(
    action: str, names: list[str], expected: list[str]
) -> None:
    never = {"name": "never", "state": "stopped", "phase": "failed"}
    rows = [
        running(),
        running("stopped", state="stopped", phase="stopped"),
        never,
        running("moved", previous="98a4aff90023"),
    ]
    assert chosen(rows, action, names) == expected


def test_a_name_is_wrong_when_no_host_has_it_and_the_message_says_what_there_is() -> None:
    variables = {
        "rig-1": {"__llama_server_looked": {"instances": [running("main")]}},
        "rig-2": {"__llama_server_looked": {"instances": [running("chat")]}},
        "gone": {},
    }
    assert nowhere(variables, variables, "restart", ["chat"]) == ""
    assert nowhere(variables, variables, "restart", ["chat", "chta"]) == (
        "no instance chta is deployed on these hosts; those that are: rig-1/main, rig-2/chat"
    )
    assert "earlier generation" in nowhere(variables, variables, "rollback")
    assert nowhere(variables, variables, "status") == ""
