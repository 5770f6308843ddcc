"""What is made of two looks at a server or a host."""

from __future__ import annotations

from nexus_tasks.fleet.live import rows
from nexus_tasks.servers.scrape import Look, Server
from tests.live_fleet import servers, watch


def test_rates_are_what_the_counters_grew_by_in_a_second() -> None:
    before = Server(1, 4, 0, prompt_tokens_total=100, predicted_tokens_total=1000)
    row = rows.instance_row(servers(before, Server(3, 4, 2, 300, 1250, 77)))
    assert (row["prompt_tps"], row["decode_tps"], row["rates_are_lower_bounds"]) == (100.0, 125.0, False)
    assert (row["slots_busy"], row["slots"], row["waiting"], row["cached_tokens"]) == (3, 4, 2, 77)


def test_a_server_that_was_started_again_has_no_rate_for_a_moment() -> None:
    before = Server(1, 4, 0, prompt_tokens_total=100, predicted_tokens_total=1000)
    row = rows.instance_row(servers(before, Server(0, 4, 0, 0, 0)))
    assert (row["up"], row["prompt_tps"], row["decode_tps"]) == (True, None, None)


def test_after_a_gap_there_is_no_rate_over_it() -> None:
    server = Server(0, 1, 0, 5, 5)
    row = rows.instance_row(watch("main", Look(1, server=server), Look(2, problem="gone"), Look(3, server=server)))
    assert (row["up"], row["decode_tps"]) == (True, None)
