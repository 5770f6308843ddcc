"""Sentences that open a tuning's page."""

from __future__ import annotations

import re
from pathlib import Path

from nexus_tasks.reports.pages.tuning import sentences
from tests.report_pages import compared_runs, opening_text


def test_a_tuning_opens_with_the_options_that_were_changed(tmp_path: Path) -> None:
    argv = ["/bin/llama-server", "--ubatch-size", "512", "--no-mmap", "--parallel", "4"]
    tuned = ["/bin/llama-server", "--ubatch-size", "1024", "--parallel", "4", "--flash-attn", "on"]
    compared = compared_runs(
        tmp_path,
        {"server": {"argv": argv, "total_slots": 4}},
        {"server": {"argv": tuned, "total_slots": 4}, "prefill_tps": 8000.0},
    )
    said = opening_text(sentences.opening(compared))
    assert said.startswith("Changed: --ubatch-size 512 → 1024; --no-mmap removed; --flash-attn added, on.")
    assert re.search(r"It made .*prefill \(\+(99|100)\.\d %, between .* better", said), said
