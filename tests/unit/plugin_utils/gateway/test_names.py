"""Names in HAProxy's configuration."""

from __future__ import annotations

import re

from plugins.plugin_utils.gateway.names import backend_name, server_id, server_name


def test_names_that_are_fine_are_kept_and_no_two_are_alike() -> None:
    assert backend_name("qwen3-0.6b") == "model_qwen3-0.6b"
    assert server_name("rig-1", "main") == "rig-1_main"
    odd = [backend_name(name) for name in ("org/a", "org_a", "org a", "org\na", 'org"a')]
    assert len(set(odd)) == len(odd)
    assert all(re.fullmatch(r"[A-Za-z0-9_.:-]+", name) for name in odd)


def test_the_number_of_a_server_stays_and_fits() -> None:
    assert server_id("rig-1", "main") == server_id("rig-1", "main") != server_id("rig-2", "main")
    assert all(1 <= server_id("rig", str(number)) < 2**31 for number in range(1000))
