"""Who of the hosts of a play fetches a model, and who takes it from there."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.plugin_utils.model_sharing import fetched, files_of, leads, paths_of, served, states_of

HUB = {"repo": "some/repo", "file": "a.gguf"}


def state(present: bool, source: Any = None) -> dict[str, Any]:
    return {"m": {"source": source or HUB, "present": present}}


def test_the_first_that_lacks_it_fetches_for_all() -> None:
    states = {host: state(present=False) for host in ("a", "b", "c")}
    assert [leads(states, host) for host in states] == [{"m": "a"}] * 3
    assert [served(states, host) for host in states] == [["m"], [], []]


def test_one_that_has_it_is_asked_and_who_has_it_takes_nothing() -> None:
    states = {"a": state(present=False), "b": state(present=True)}
    assert (leads(states, "a"), leads(states, "b")) == ({"m": "b"}, {})
    assert (served(states, "a"), served(states, "b")) == ([], ["m"])


@pytest.mark.parametrize(
    "source", [{"repo": "some/repo", "file": "b.gguf"}, {"path": "/m.gguf"}, {"generator": "tiny"}]
)
def test_another_source_and_what_crosses_no_uplink_is_each_hosts_own(source: dict[str, str]) -> None:
    states = {"a": state(present=True), "b": state(present=False, source=source)}
    assert leads(states, "b") == {"m": "b"}
    assert served(states, "a") == []


def test_a_probe_is_a_state_with_the_source_of_the_profile() -> None:
    results = [{"__gguf_model_name": "m", "present": False}]
    assert states_of(results, {"m": {**HUB, "recommended": {"ctx_size": 1}}}) == state(present=False)


def test_all_files_of_a_model_are_taken_under_their_names() -> None:
    model = {
        "path": "/x/m-1.gguf",
        "size_bytes": 1,
        "sha256": "a",
        "parts": [{"path": "/x/m-2.gguf", "size_bytes": 2, "sha256": "b"}],
    }
    assert files_of(model) == [
        {"path": "/m-1.gguf", "size_bytes": 1, "sha256": "a"}, {"path": "/m-2.gguf", "size_bytes": 2, "sha256": "b"},
    ]  # fmt: skip
    assert paths_of(model) == ["/x/m-1.gguf", "/x/m-2.gguf"]


def test_what_lies_on_the_host_or_is_made_here_crosses_no_uplink() -> None:
    catalogue = {"a": {"path": "/x"}, "b": {"generator": "tiny"}, "c": {"repo": "x/y"}, "d": {"urls": []}}
    assert fetched(["a", "b", "c", "d", "nosuch"], catalogue) == ["c", "d"]
