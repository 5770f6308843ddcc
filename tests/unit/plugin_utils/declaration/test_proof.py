"""What the proof of a start asks for."""

from __future__ import annotations

from plugins.plugin_utils.declaration.proof import start_limits
from tests.server_rows import running


def test_a_proof_waits_as_long_as_the_deployed_model_takes_to_load() -> None:
    settings = {
        "start_timeout": 60, "start_timeout_per_gib": 30, "tokens": 32, "drain_timeout": 5, "min_decode_tps": None,
        "max_regression": 0.5,
    }  # fmt: skip
    limits = start_limits([running()], "restart", {"main": {"min_decode_tps": 20.0}}, settings)
    assert limits["main"] == {
        "start_timeout": 180, "tokens": 32, "drain_timeout": 5.0, "min_decode_tps": 20.0, "max_regression": 0.5,
    }  # fmt: skip
    # What a rollback loads may be larger, and nobody knows what an unknown instance loads.
    rollback = start_limits([running()], "rollback", {}, settings)
    assert rollback["main"]["start_timeout"] == rollback["default"]["start_timeout"] == 60 + 64 * 30
