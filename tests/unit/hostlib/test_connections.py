"""Connections of the inventory, by their names."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.connections import is_local


@pytest.mark.parametrize(
    ("connection", "expected"),
    [("local", True), ("ansible.builtin.local", True), ("ansible.legacy.local", True), ("ssh", False),
     ("ansible.builtin.ssh", False), ("my.collection.local", False), (None, False)],
)  # fmt: skip
def test_the_connection_to_this_machine_is_known_by_its_short_name_and_its_full_one(
    connection: str | None, expected: bool
) -> None:
    assert is_local(connection) is expected
