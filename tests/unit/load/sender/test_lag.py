"""Delays of the event loop, counted."""

from __future__ import annotations

from nexus_tasks.load.sender.lag import Histogram


def test_delays_are_counted_in_tenths_of_a_millisecond_and_the_largest_is_kept() -> None:
    delays = Histogram()
    for seconds in (0.0, 0.00005, 0.00015, 7.0, -1e-6):
        delays.add(seconds)
    assert delays.counts[:2] == [3, 1]
    assert delays.counts[-1] == 1
    assert delays.largest == 7.0
