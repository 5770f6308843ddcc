"""What is judged of two runs, what is refused, and which runs a name means."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nexus_tasks import compare
from nexus_tasks.comparison import comparable, quantities, simulation
from nexus_tasks.comparison.simulation import Design, Noise
from nexus_tasks.comparison.verdicts import BETTER, CANT_TELL, SAME, WORSE, Comparison, Finding, judge
from nexus_tasks.core.errors import RecordError, UsageError
from nexus_tasks.records.store import Record
from tests import deployment_records
from tests.compare_records import changed, loaded, run, save
from tests.report_records import figures


def finding(found: Comparison, name: str, level: str | None = None) -> Finding:
    (one,) = [one for one in found.findings if one.name == name and level in (None, one.level)]
    return one


def names(found: Comparison) -> set[str]:
    return {one.name for one in found.findings}


# --- verdicts


@pytest.mark.parametrize(("slower", "verdict"), [(1.1, WORSE), (1 / 1.1, BETTER)])
def test_a_tenth_of_the_decode_speed_is_seen_in_two_runs(slower: float, verdict: str) -> None:
    found = judge([run("a")], [run("b", slower=slower)])
    decode = finding(found, "decode_tps")
    assert decode.verdict == verdict
    assert decode.low is not None
    assert decode.change is not None
    assert decode.high is not None
    assert decode.low < decode.change < decode.high
    assert decode.change == pytest.approx((1 / slower - 1) * 100, abs=0.5)
    assert finding(found, "ttft_ms").verdict in (SAME, CANT_TELL)


def test_shorter_is_better_of_times_and_worse_of_speeds() -> None:
    slow, fast = [run(name, seed=n) for n, name in enumerate("ab")]
    for row in slow.requests:
        row["ttft_ms"] *= 1.3
    assert finding(judge([slow], [fast]), "ttft_ms").verdict == BETTER
    assert finding(judge([fast], [slow]), "ttft_ms").verdict == WORSE
    assert finding(judge([fast], [slow]), "ttft_ms").change == pytest.approx(30, abs=2)


def test_two_single_runs_are_never_the_same_to_a_margin_below_the_drift_that_is_assumed() -> None:
    found = judge([run("a", requests=200)], [run("b", requests=200)], margins={"decode_tps": 1.0})
    decode = finding(found, "decode_tps")
    assert decode.verdict == CANT_TELL
    assert decode.high is not None
    assert decode.low is not None
    # Bonferroni makes it wider than 1.96 * sqrt(2) * 0.7.
    assert decode.high - decode.low > 2 * 1.96 * 2**0.5 * quantities.DECODE.drift_percent


def test_repeats_tell_what_single_runs_can_t() -> None:
    one = judge([run("a0")], [run("b0")])
    repeated = judge([run(f"a{n}") for n in range(4)], [run(f"b{n}") for n in range(4)])
    assert (one.noise, repeated.noise) == ("assumed", "repeats")
    assert finding(repeated, "decode_tps").verdict == SAME
    assert width(repeated) < width(one) / 2


def width(found: Comparison) -> float:
    decode = finding(found, "decode_tps")
    assert decode.low is not None
    assert decode.high is not None
    return decode.high - decode.low


def test_repeats_that_differ_among_themselves_make_a_difference_doubtful() -> None:
    wild = (0.9, 1.0, 1.1)
    a = [run(f"a{n}", slower=factor) for n, factor in enumerate(wild)]
    b = [run(f"b{n}", slower=1.05 * factor) for n, factor in enumerate(wild)]
    assert finding(judge(a, b), "decode_tps").verdict == CANT_TELL


def test_rounds_take_the_drift_out() -> None:
    drifting = Noise(drift=5.0, process=0.0)
    a, b = simulation.pair(np.random.default_rng(1), drifting, Design(rounds=10), loss_percent=5)
    found = judge(a, b)
    assert found.noise == "rounds"
    decode = finding(found, "decode_tps")
    assert decode.verdict == WORSE
    assert decode.change == pytest.approx(-5, abs=1)
    assert decode.noise_percent is not None
    assert decode.noise_percent > 1  # what one side differs by from round to round is far more than the interval
    unpaired = [changed(record, {"load.interleaved_with": None}) for record in (*a, *b)]
    assert judge(unpaired[:1], unpaired[1:]).noise == "assumed"


def test_runs_are_in_rounds_only_when_each_names_the_other() -> None:
    a, b = simulation.pair(np.random.default_rng(2), Noise(), Design(rounds=5))
    stranger = [changed(b[0], {"load.interleaved_with": "another"})]
    assert judge(a, stranger).noise == "assumed"


def test_rounds_that_can_t_tell_say_how_many_would() -> None:
    loud = Noise(request_gap=20.0, process=0.0)
    a, b = simulation.pair(np.random.default_rng(3), loud, Design(rounds=5))
    decode = finding(judge(a, b), "decode_tps")
    assert decode.verdict == CANT_TELL
    assert decode.rounds_needed is not None
    assert decode.rounds_needed > 50
    more = simulation.pair(np.random.default_rng(3), loud, Design(rounds=decode.rounds_needed))
    assert finding(judge(*more), "decode_tps").verdict == SAME


def test_changes_within_the_margin_are_the_same_however_sure_they_are() -> None:
    a, b = simulation.pair(np.random.default_rng(4), Noise(), Design(rounds=40), loss_percent=1.5)
    decode = finding(judge(a, b), "decode_tps")
    assert decode.high is not None
    assert decode.high < 0
    assert decode.verdict == SAME
    assert finding(judge(a, b, margins={"decode_tps": 0.5}), "decode_tps").verdict == WORSE


def test_a_single_request_on_a_side_can_t_tell() -> None:
    found = judge([run("a", requests=1)], [run("b", requests=1, slower=2.0)])
    decode = finding(found, "decode_tps")
    assert (decode.verdict, decode.low) == (CANT_TELL, None)
    assert decode.change == pytest.approx(-50, abs=2)


def test_one_stalled_request_of_many_doesn_t_hide_a_loss() -> None:
    slow = run("b", slower=1.08)
    slow.requests[3] |= {"decode_tps": 10.0, "ttft_ms": 60_000.0}
    assert finding(judge([run("a")], [slow]), "decode_tps").verdict == WORSE


def test_more_stalls_are_worse_although_the_median_is_the_same() -> None:
    a, b = run("a", requests=40), run("b", requests=40)
    for row in b.requests:
        row["itl_ms"] = [gap * (4 if n % 50 == 0 else 1) for n, gap in enumerate(row["itl_ms"])]
    found = judge([a], [b])
    assert finding(found, "itl_p99_ms").verdict == WORSE
    assert finding(found, "decode_tps").verdict != WORSE  # its rows still say what they said
    assert found.verdict == WORSE


def test_slow_drift_within_a_run_makes_it_less_sure_than_the_same_points_in_disorder() -> None:
    def drifting(name: str, *, ordered: bool) -> Record:
        record = run(name, requests=120)
        speeds = np.concatenate([np.full(40, 100.0), np.full(40, 110.0), np.full(40, 105.0)])
        if not ordered:
            speeds = np.random.default_rng(5).permutation(speeds)
        for row, speed in zip(record.requests, speeds, strict=True):
            row["decode_tps"] = speed + row["ttft_ms"] / 1e4
        return record

    in_order, mixed = [
        judge([drifting("a", ordered=ordered)], [drifting("b", ordered=ordered)]) for ordered in (True, False)
    ]
    assert width(in_order) > 1.3 * width(mixed)


def test_each_further_quantity_makes_all_intervals_wider() -> None:
    a, b = run("a"), run("b")
    few = [dataclasses.replace(one, requests=[{**row, "prefill_tps": None, "ttft_ms": None} for row in one.requests])
           for one in (a, b)]  # fmt: skip
    assert width(judge([a], [b])) > width(judge(few[:1], few[1:]))


# --- what is judged


def test_what_was_not_measured_is_not_judged() -> None:
    assert names(judge([run("a")], [run("b")])) == {"decode_tps", "ttft_ms", "itl_p99_ms", "prefill_tps"}
    embeddings = run("a"), run("b")
    for record in embeddings:
        for row in record.requests:
            row |= {"ttft_ms": None, "decode_tps": None, "prefill_tps": None, "itl_ms": [], "output_tokens": None}
    assert names(judge(embeddings[:1], embeddings[1:])) == {"total_ms"}


@pytest.mark.parametrize(("requests", "judged"), [(40, False), (200, True)])
def test_the_slowest_few_are_judged_where_there_are_enough_of_them(requests: int, judged: bool) -> None:
    found = judge([run("a", requests=requests)], [run("b", requests=requests)])
    assert ("ttft_p95_ms" in names(found)) is judged


def test_in_rounds_of_a_few_requests_the_slowest_is_no_p95() -> None:
    few, many = [
        judge(*simulation.pair(np.random.default_rng(6), Noise(), Design(rounds=5, requests=requests)))
        for requests in (19, 20)
    ]
    assert "ttft_p95_ms" not in names(few)
    assert "ttft_p95_ms" in names(many)
    assert "itl_p99_ms" in names(few)  # of thousands of gaps


def levels(record: Record, speeds: dict[int, float], count: int) -> Record:
    """A run at several concurrencies, each so many times as slow."""
    rows, stages = [], []
    for number, (concurrency, slower) in enumerate(speeds.items()):
        part = run(f"{record.run_id}{concurrency}", slower=slower, requests=count)
        rows += [{**row, "stage": number} for row in part.requests]
        stages.append({
            "type": "stage", "stage": number, "round": 0, "concurrency": concurrency, "rate_per_s": None,
            "prompt_tokens": 512, "watch": None, **figures([], 1.0, {}),
            "throughput": {"output_tps": 95.0 * concurrency / slower, "prompt_tps": None, "total_tps": None,
                           "requests_per_s": None},
        })  # fmt: skip
    planned = [{"concurrency": concurrency} for concurrency in speeds]
    return changed(
        dataclasses.replace(record, requests=rows, stages=stages), {"load.planned": planned, "load.axis": "concurrency"}
    )


def test_each_level_of_load_is_judged_by_itself() -> None:
    found = judge(
        [levels(run("a"), {1: 1.0, 8: 1.0}, 40)],
        [levels(run("b"), {1: 1.0, 8: 1.2, 16: 1.0}, 40)],
    )
    assert finding(found, "decode_tps", "concurrency 1").verdict != WORSE
    assert finding(found, "decode_tps", "concurrency 8").verdict == WORSE
    assert finding(found, "output_tps", "concurrency 8").verdict == WORSE
    assert finding(found, "output_tps", "concurrency 8").after == pytest.approx(95.0 * 8 / 1.2)
    assert {one.level for one in found.findings if one.name == "output_tps"} == {"concurrency 8"}
    assert "not measured in all runs, and left out: concurrency 16" in found.warnings


def test_throughput_of_few_requests_and_of_many_differs_by_how_the_load_begins_and_ends() -> None:
    few, many, more = [levels(run(name), {8: 1.0}, count) for name, count in (("a", 16), ("b", 160), ("c", 160))]
    for record in (many, more):
        record.stages[0]["throughput"]["output_tps"] *= 1.2
    assert finding(judge([few], [many]), "output_tps").verdict == CANT_TELL
    assert finding(judge([many], [more]), "output_tps").verdict == SAME
    more.stages[0]["throughput"]["output_tps"] *= 1.2
    assert finding(judge([many], [more]), "output_tps").verdict == BETTER


def test_throughput_at_a_rate_is_the_rate_and_not_judged() -> None:
    sides = [levels(run(name), {8: 1.0}, 40) for name in "ab"]
    at_rate = [changed(one, {"load.mode": "constant"}) for one in sides]
    assert "output_tps" in names(judge(sides[:1], sides[1:]))
    assert "output_tps" not in names(judge(at_rate[:1], at_rate[1:]))


def of_lengths(run_id: str, concurrency: int) -> Record:
    """A run of context scaling with one length."""
    planned = [{"concurrency": concurrency, "rate_per_s": None, "prompt_tokens": 512}]
    return run(run_id, header={"load.axis": "prompt_tokens", "load.planned": planned})


def test_prompt_lengths_are_compared_at_the_same_number_of_users() -> None:
    assert judge([of_lengths("a", 4)], [of_lengths("b", 4)]).findings
    with pytest.raises(UsageError) as caught:
        judge([of_lengths("a", 1)], [of_lengths("b", 4)])
    assert "concurrency 1 against 4" in caught.value.message


def test_bursts_of_another_size_are_another_load() -> None:
    a, b = [run(name, header={"load.mode": "burst", "load.planned": [{"rate_per_s": 4.0, "burst": size}]})
            for name, size in (("a", 2), ("b", 8))]  # fmt: skip
    with pytest.raises(UsageError) as caught:
        judge([a], [b])
    assert "burst 2 against 8" in caught.value.message


def test_a_run_of_one_level_is_compared_with_that_level_of_a_run_of_several() -> None:
    one = changed(levels(run("a"), {8: 1.0}, 40), {"load.axis": None})
    found = judge([one], [levels(run("b"), {1: 1.0, 8: 1.0}, 40)])
    assert {finding.level for finding in found.findings} == {"concurrency 8"}
    assert not found.missing


def test_a_level_that_only_a_has_can_t_be_told() -> None:
    whole, part = levels(run("a"), {1: 1.0, 8: 1.0}, 200), levels(run("b"), {1: 1.0}, 200)
    margins = dict.fromkeys(("decode_tps", "ttft_ms", "ttft_p95_ms", "itl_p99_ms", "prefill_tps"), 50.0)
    found = judge([whole], [part], margins=margins)
    assert {finding.verdict for finding in found.findings} == {SAME}
    assert (found.missing, found.verdict) == (["concurrency 8"], CANT_TELL)
    assert compare.sentences(found)[0] == "B against A: not measured in B: concurrency 8."
    assert compare._status([found], "cant-tell") == 4
    assert compare._status([found], "worse") == 0
    assert judge([part], [whole], margins=margins).verdict == SAME
    sweeps = [changed(one, {"load.mode": "sweep"}) for one in (whole, part)]  # find levels of their own
    assert not judge(sweeps[:1], sweeps[1:]).missing


def test_a_quantity_that_only_a_has_can_t_be_told() -> None:
    b = run("b")
    for row in b.requests:
        row["prefill_tps"] = None
    found = judge([run("a")], [b])
    assert found.missing == ["prefill, tokens/s at concurrency 1"]
    assert "not measured in all runs, and left out: prefill, tokens/s at concurrency 1" in found.warnings
    assert not judge([b], [run("a")]).missing


def test_stalls_that_are_all_in_one_request_can_t_be_told() -> None:
    b = run("b", requests=20)
    b.requests[7]["itl_ms"] = [gap * (50 if n % 4 == 0 else 1) for n, gap in enumerate(b.requests[7]["itl_ms"])]
    found = finding(judge([run("a", requests=20)], [b]), "itl_p99_ms")
    assert (found.verdict, found.low) == (CANT_TELL, None)


def test_the_round_that_was_cut_short_belongs_to_its_level() -> None:
    a, b = (one for side in simulation.pair(np.random.default_rng(3), Noise(), Design(rounds=5)) for one in side)
    stages = [{"type": "stage", "stage": n, "round": n, "concurrency": 1, "rate_per_s": None, "prompt_tokens": None,
               "throughput": {"output_tps": 90.0}} for n in range(5)]  # fmt: skip
    for row in (*a.requests, *b.requests):
        row["stage"] = row["round"]
    whole = dataclasses.replace(a, stages=stages)
    cut = dataclasses.replace(b, stages=stages[:4], summary=None)
    found = judge([whole], [cut])
    assert list(found.warnings) == ["b: interrupted: the run was cut short"]
    assert finding(found, "decode_tps") == finding(
        judge([whole], [dataclasses.replace(b, stages=stages)]), "decode_tps"
    )


def test_two_wild_requests_of_many_levels_have_no_interval() -> None:
    few = dict.fromkeys((1, 2, 4, 8, 16), 1.0)
    a, b = levels(run("a"), few, 2), levels(run("b"), few, 2)
    for row in b.requests[::2]:
        row["ttft_ms"] *= 100
    ttft = finding(judge([a], [b]), "ttft_ms", "concurrency 4")
    assert (ttft.verdict, ttft.low, ttft.high) == (CANT_TELL, None, None)
    assert ttft.change is not None
    assert ttft.change > 100


def test_requests_that_were_in_flight_together_say_less_than_as_many_one_after_another() -> None:
    def waves(name: str, users: int) -> Record:
        record = levels(run(name), {users: 1.0}, 128)
        speeds = np.random.default_rng(9).normal(100, 5, 16)
        for number, row in enumerate(record.requests):
            row["decode_tps"] = speeds[number // 8] + row["ttft_ms"] / 1e4
        return record

    together, alone = [judge([waves("a", users)], [waves("b", users)]) for users in (8, 1)]
    assert width(together) > 1.2 * width(alone)


def objective(slo: dict[str, float], *sides: list[Record]) -> list[list[Record]]:
    """Runs with objectives, and gaps as records have them."""
    for record in (one for side in sides for one in side):
        for row in record.requests:
            row["itl_ms"] = list(row["itl_ms"])
    return [[changed(record, {"load.slo": slo}) for record in side] for side in sides]


@pytest.mark.parametrize(
    "design", [Design(requests=20), Design(requests=200), Design(rounds=5), Design(requests=20, repeats=3)]
)
def test_equal_runs_at_the_edge_of_an_objective_are_not_called_different(design: Design) -> None:
    rng = np.random.default_rng(10)
    verdicts_ = [
        finding(judge(*objective({"ttft_ms": 122.3}, *simulation.pair(rng, Noise(), design))), "goodput").verdict
        for _ in range(40)
    ]
    assert sum(verdict in (BETTER, WORSE) for verdict in verdicts_) <= 4


def test_an_objective_that_is_missed_for_good_is_worse() -> None:
    for design in (Design(requests=50), Design(rounds=10), Design(requests=20, repeats=3)):
        a, b = objective({"ttft_ms": 135.0}, *simulation.pair(np.random.default_rng(11), Noise(), design))
        for row in (row for record in b for row in record.requests):
            row["ttft_ms"] *= 1.15
        assert finding(judge(a, b), "goodput").verdict == WORSE


def test_failures_in_one_burst_say_less_than_as_many_apart() -> None:
    def failing(places: range) -> Finding:
        b = run("b", requests=200)
        for place in places:
            b.requests[place] |= {"ok": False, "error": {"kind": "timeout", "message": "?"}}
        return finding(judge([run("a", requests=200)], [b]), "failed")

    burst, apart = failing(range(50, 70)), failing(range(5, 200, 10))
    assert burst.change == apart.change == pytest.approx(10.0)
    assert burst.low is not None
    assert apart.low is not None
    assert burst.low < apart.low / 2


def test_failures_and_goodput_are_compared_as_shares() -> None:
    a, b = run("a", requests=100), run("b", requests=100)
    slo = {"load.slo": {"ttft_ms": 1000.0}}
    for row in b.requests[:30]:
        row |= {"ok": False, "error": {"kind": "timeout", "message": "?"}}
    found = judge([changed(a, slo)], [changed(b, slo)])
    failed, goodput = finding(found, "failed"), finding(found, "goodput")
    assert (failed.before, failed.after, failed.change) == (0.0, 30.0, 30.0)
    assert (failed.verdict, goodput.verdict) == (WORSE, WORSE)
    assert goodput.change == pytest.approx(-30)
    assert "goodput" not in names(judge([changed(a, slo)], [b]))


def test_a_few_failures_more_may_be_chance() -> None:
    a, b = run("a"), run("b")
    b.requests[0] |= {"ok": False, "error": {"kind": "timeout", "message": "?"}}
    assert finding(judge([a], [b]), "failed").verdict == CANT_TELL


# --- what is refused, and what is warned of


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"workload.prompt_tokens": {"kind": "fixed", "mean": 64}}, "prompt_tokens fixed 512 against fixed 64"),
        ({"workload.api": "chat"}, "api completion against chat"),
        ({"workload.file": {"name": "x", "sha256": "ab", "entries": 3}}, "file unknown against ab"),
        ({"workload.temperature": 1}, "temperature 0 against 1"),
        ({"load.mode": "poisson"}, "mode closed against poisson"),
        ({"load.engine": "llama-bench"}, "engine http against llama-bench"),
        ({"model.name": "other"}, "different models: made-up against other"),
        ({"load.planned": [{"concurrency": 4}]}, "no level of load in common: concurrency 1 and concurrency 4"),
    ],
)
def test_what_asked_something_else_is_refused_with_what_differs(header: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        judge([run("a")], [run("b", header=header)])
    assert said in caught.value.message


@pytest.mark.parametrize("key", ["preset", "seed"])
def test_what_does_not_change_the_load_may_differ(key: str) -> None:
    assert judge([run("a")], [run("b", header={f"workload.{key}": "other"})]).findings


def test_the_same_file_under_another_name_is_the_same() -> None:
    a, b = [run(name, header={"workload.file": {"name": name, "sha256": "ab", "entries": 3}}) for name in "ab"]
    assert judge([a], [b]).findings


def test_models_are_compared_only_where_that_is_what_is_compared() -> None:
    b = run("b", header={"model.name": "other"})
    with pytest.raises(UsageError) as caught:
        judge([run("a")], [b])
    assert "--across model" in caught.value.hint
    assert judge([run("a")], [b], across=("model",)).differences == ["model: made-up → other"]


def test_a_run_that_is_not_valid_is_refused_with_the_reasons() -> None:
    invalid = changed(run("b"), {}, valid=False, reasons=["the event loop was late"])
    with pytest.raises(UsageError) as caught:
        judge([run("a")], [invalid])
    assert "b is not valid: the event loop was late" in caught.value.message


def test_a_run_that_was_cut_short_is_not_valid_when_a_stage_of_it_is_not() -> None:
    b = dataclasses.replace(levels(run("b"), {1: 1.0, 8: 1.0}, 20), summary=None)
    b.stages[0]["watch"] = {"valid": False, "reasons": ["the event loop was late"]}
    with pytest.raises(UsageError) as caught:
        judge([levels(run("a"), {1: 1.0, 8: 1.0}, 20)], [b])
    assert "b is not valid: the event loop was late" in caught.value.message


def test_a_run_is_not_compared_with_itself() -> None:
    with pytest.raises(UsageError):
        judge([run("a"), run("b")], [run("a")])


def test_runs_of_different_builds_are_no_repeats() -> None:
    with pytest.raises(UsageError) as caught:
        judge([run("a"), run("b", header={"server.build": "b2"})], [run("c")])
    assert "build: b1 → b2" in caught.value.message


def test_runs_without_a_good_request_are_refused() -> None:
    b = run("b")
    for row in b.requests:
        row |= {"ok": False, "error": {"kind": "timeout", "message": "?"}, "ttft_ms": None}
    found = judge([run("a")], [b])
    assert names(found) == {"failed"}
    none = dataclasses.replace(b, requests=[])
    with pytest.raises(UsageError):
        judge([run("a")], [none])


def test_what_was_changed_on_purpose_is_named() -> None:
    argv = ["/releases/b1/llama-server", "--port", "8600", "--ctx-size", "4096", "--flash-attn", "on"]
    a = run("a", header={"server.argv": argv})
    other = ["/releases/b2/llama-server", "--port", "8601", "--ctx-size", "8192", "--flash-attn", "on", "--no-mmap"]
    b = run("b", header={"server.argv": other, "server.build": "b2"})
    assert judge([a], [b]).differences == ["build: b1 → b2", "argv: -[--ctx-size 4096] +[--ctx-size 8192] +[--no-mmap]"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"host_state.driver": "580"}, "driver differs: 570 against 580"),
        ({"host_state.power_limit_w": [300]}, "power limit in W differs: 700 against 300"),
        ({"host_state.governor": "powersave"}, "CPU governor differs: performance against powersave"),
        ({"endpoint.host": "gpu2"}, "host differs: localhost against gpu2"),
        ({"endpoint.tunnel": {"via": "ssh", "host": "gpu2"}}, "tunnel differs: direct against through ssh"),
    ],
)
def test_other_machines_and_drivers_are_warned_of(header: dict[str, Any], said: str) -> None:
    known = {"host_state.driver": "570", "host_state.power_limit_w": [700], "host_state.governor": "performance"}
    found = judge([run("a", header=known)], [run("b", header={**known, **header})])
    assert list(found.warnings) == [said]


def test_what_is_unknown_of_one_run_is_no_difference() -> None:
    assert not judge([run("a")], [run("b", header={"host_state.driver": "580"})]).warnings


def test_runs_that_failed_in_part_or_were_throttled_are_warned_of() -> None:
    a = dataclasses.replace(run("a"), samples=[{"gpus": [{"index": 0, "throttled": ["power cap"]}]}, {"gpus": []}])
    b = changed(run("b"), {}, ok=False, failed=2)
    assert comparable.warnings([a], [b]) == [
        "a: a GPU was throttled (power cap)",
        "b: 2 of 20 requests failed",
    ]


# --- which runs a name means


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five runs, a minute after one another: two tagged before, a bad one, and one of another target."""
    save(
        tmp_path,
        run("r1", header={"tag": "before"}),
        run("r2", header={"tag": "before"}),
        changed(run("r3-bad"), {}, ok=False, failed=1),
        run("r4-other", header={"target": "other"}),
        run("r5", header={"tag": "after"}),
    )
    return tmp_path


def ids(text: str, root: Path, other: str | None = None) -> list[str]:
    records = compare.find(text, root, other=compare.find(other, root) if other else None)
    return [record.run_id for record in records]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("last", ["r5"]),
        ("before", ["r1", "r2"]),
        ("after", ["r5"]),
        ("r4", ["r4-other"]),
        ("r1,r2", ["r1", "r2"]),
        ("before, r2", ["r1", "r2"]),
    ],
)
def test_runs_are_named_by_tags_and_by_the_beginning_of_their_ids(text: str, meant: list[str], root: Path) -> None:
    assert ids(text, root) == meant


def test_a_run_is_named_by_its_path(root: Path) -> None:
    assert ids(str(root / "benchmark" / "r2.jsonl"), root) == ["r2"]


def test_tags_and_baselines_may_be_names_of_branches(tmp_path: Path) -> None:
    save(tmp_path, run("r1", header={"tag": "feature/x"}), run("r2"))
    assert ids("feature/x", tmp_path) == ["r1"]
    compare.save_baseline("release/1", compare.find("r2", tmp_path), tmp_path)
    assert ids("release/1", tmp_path) == ["r2"]


def test_the_record_of_a_deployment_is_no_run_to_compare(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(deployment_records.write(root))
    for names_ in ([path, "last"], ["last", path]):
        assert compare.main([*names_, "--results", str(root)]) == 1
        assert f"{path} is a deployment" in capsys.readouterr().err


def test_a_damaged_record_is_left_out_of_the_search_for_the_last_good_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / "benchmark" / "r2.jsonl"
    path.write_text(path.read_text() + "{\n")
    assert ids("last-good", root, "last") == ["r1"]
    assert f"warning: left out: {path}, line" in capsys.readouterr().err
    with pytest.raises(RecordError):
        ids("r2", root)


def test_the_last_good_runs_of_several_targets_are_one_of_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = {"target": "x"}, {"target": "y"}
    save(tmp_path, run("r1", header=x), run("r2", header=y), run("r3", header={**x, "tag": "new"}),
         run("r4", header={**y, "tag": "new"}))  # fmt: skip
    assert compare.main(["last-good", "new", "--json", "--results", str(tmp_path)]) == 0
    assert [(one["a"], one["b"]) for one in json.loads(capsys.readouterr().out)] == [
        (["r1"], ["r3"]), (["r2"], ["r4"]),
    ]  # fmt: skip
    assert compare.against("last-good", compare.find("new", tmp_path), root=tmp_path) == 0


def test_the_last_good_run_is_one_that_can_be_compared(root: Path) -> None:
    assert ids("last-good", root, "last") == ["r2"]  # r3 failed, r4 is another target's
    assert ids("last-good", root, "r2") == ["r1"]
    with pytest.raises(UsageError):
        ids("last-good", root, "r1")
    with pytest.raises(UsageError):
        ids("last-good", root)


def test_a_whole_run_id_is_itself_although_others_begin_like_it(tmp_path: Path) -> None:
    save(tmp_path, run("run"), run("run-2"))
    assert ids("run", tmp_path) == ["run"]


@pytest.mark.parametrize(
    ("text", "said"), [("r", "5 runs begin with 'r'"), ("x", "no run, tag or baseline 'x'"), (",", "empty")]
)
def test_a_name_of_no_run_or_of_several_is_refused(text: str, said: str, root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compare.find(text, root)
    assert said in caught.value.message


def test_a_baseline_is_found_again(root: Path) -> None:
    compare.save_baseline("v1", compare.find("r1", root), root)
    compare.save_baseline("v2", compare.find("before", root), root)
    assert json.loads((root / "baselines.json").read_text()) == {"v1": "r1", "v2": "r1,r2"}
    assert ids("v1", root) == ["r1"]
    assert ids("v2", root) == ["r1", "r2"]
    compare.save_baseline("v1", compare.find("r5", root)[0], root)
    assert ids("v1", root) == ["r5"]
    assert sorted(path.name for path in root.iterdir()) == ["baselines.json", "benchmark"]


def test_a_baseline_can_be_of_several_targets_with_models_of_their_own(tmp_path: Path) -> None:
    save(tmp_path, run("r1", header={"tag": "t", "target": "x"}),
         run("r2", header={"tag": "t", "target": "y", "model.name": "other"}))  # fmt: skip
    compare.save_baseline("v1", compare.find("t", tmp_path), tmp_path)
    assert ids("v1", tmp_path) == ["r1", "r2"]


def test_baselines_are_readable_for_whoever_reads_the_records(root: Path) -> None:
    compare.save_baseline("v1", compare.find("r1", root), root)
    record = root / "benchmark" / "r1.jsonl"
    assert (root / "baselines.json").stat().st_mode & 0o777 == record.stat().st_mode & 0o777


@pytest.mark.parametrize("name", ["", "last", "last-good", "a,b", " v1", "x.jsonl"])
def test_a_baseline_has_no_name_that_means_something_else(name: str, root: Path) -> None:
    with pytest.raises(UsageError):
        compare.save_baseline(name, compare.find("r1", root), root)


def test_a_bad_run_is_no_baseline(root: Path) -> None:
    with pytest.raises(UsageError) as caught:
        compare.save_baseline("v1", compare.find("r3", root), root)
    assert "1 of 20 requests failed" in caught.value.message
    assert not (root / "baselines.json").exists()


def test_a_baseline_whose_record_is_gone_is_told(root: Path) -> None:
    compare.save_baseline("v1", compare.find("r1", root), root)
    (root / "benchmark" / "r1.jsonl").unlink()
    with pytest.raises(UsageError) as caught:
        compare.find("v1", root)
    assert "r1" in caught.value.message


@pytest.mark.parametrize("text", ["{", "[]", '{"v1": 3}'])
def test_a_damaged_file_of_baselines_is_told(text: str, root: Path) -> None:
    (root / "baselines.json").write_text(text)
    with pytest.raises(RecordError):
        compare.find("v1", root)


# --- for people, and as a gate


def test_the_table_fits_a_terminal_of_80_columns(tmp_path: Path) -> None:
    slo = {"load.slo": {"ttft_ms": 1.0}}
    speeds: list[dict[int, float]] = [{1: 1.0, 8: 1.0}, {1: 3.0, 8: 1.2}]
    a, b = loaded(tmp_path, *(levels(run(name, header=slo), of, 60) for name, of in zip("ab", speeds, strict=True)))
    console = Console(width=80, record=True, file=io.StringIO())
    compare.show(judge([a], [b]), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("concurrency 8") for line in lines)
    row = next(line for line in lines if line.startswith("decode, tokens/s"))
    assert row.split()[-1] == "worse"
    assert "…" in row
    assert "-66." in row


def test_the_verdict_is_said_in_a_sentence() -> None:
    found = judge([run("a")], [run("b", slower=1.2)])
    first, noise_known, advice = compare.sentences(found)
    assert first.startswith("B against A: worse: decode, ITL p99; can't be told: TTFT.")
    assert "assumed" in noise_known
    assert "--interleave 10" in advice


@pytest.mark.parametrize(
    ("slower", "arguments", "status"),
    [
        (1.2, [], 3),
        (1.0, [], 0),
        (1.0, ["--fail-on", "cant-tell"], 4),
        (1.2, ["--fail-on", "cant-tell"], 3),
        (1.2, ["--margin", "decode_tps=50", "--margin", "itl_p99_ms=50"], 0),
    ],
)
def test_the_exit_status_is_that_of_a_gate(slower: float, arguments: list[str], status: int, tmp_path: Path) -> None:
    save(tmp_path, run("a"), run("b", slower=slower))
    assert compare.main(["a", "b", "--results", str(tmp_path), *arguments]) == status


def test_a_run_is_held_against_a_baseline(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--results", str(root)]
    assert compare.main(["--save-baseline", "v1", "before", *folder]) == 0
    assert compare.main(["--against", "v1", *folder]) == 0
    assert "A: r1, r2\nB: r5\n" in capsys.readouterr().out
    console = Console(quiet=True)
    slow = run("slow", slower=1.2)
    assert compare.against("v1", [slow], root=root, console=console) == 3
    assert compare.against("last-good", compare.find("last", root), root=root) == 0


@pytest.mark.parametrize(
    "arguments", [["a"], [], ["a", "b", "c"], ["--save-baseline", "x", "a", "b"], ["a", "b", "--margin", "speed=1"],
                  ["a", "b", "--margin", "decode_tps=0"], ["last-good", "last-good"], ["--simulate", "0"]],
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_an_error(arguments: list[str], tmp_path: Path) -> None:
    save(tmp_path, run("a"), run("b"))
    assert compare.main([*arguments, "--results", str(tmp_path)]) == 1


def test_runs_of_several_targets_are_compared_target_by_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tagged(run_id: str, tag: str, target: str, slower: float = 1.0) -> Record:
        return run(run_id, slower=slower, header={"tag": tag, "target": target})

    save(tmp_path, tagged("a1", "old", "x"), tagged("a2", "old", "y"), tagged("b1", "new", "x"),
         tagged("b2", "new", "y", 1.2), tagged("c1", "third", "z"))  # fmt: skip
    assert compare.main(["old", "new", "--json", "--results", str(tmp_path)]) == 3
    first, second = json.loads(capsys.readouterr().out)
    assert (first["a"], first["b"], second["a"], second["b"]) == (["a1"], ["b1"], ["a2"], ["b2"])
    assert second["verdict"] == "worse"
    assert first["verdict"] != "worse"
    assert compare.main(["old", "third", "--results", str(tmp_path)]) == 1


# --- how often verdicts are right


@pytest.mark.parametrize(
    ("design", "machine"),
    [
        (Design("two runs", requests=10), Noise()),
        (Design("interleaved", rounds=5), Noise()),
        (Design("interleaved", rounds=5), Noise(drift=1.4)),
    ],
)
def test_a_loss_of_5_percent_is_found_and_equal_runs_are_not_called_different(design: Design, machine: Noise) -> None:
    rates = simulation.simulate(design, 300, noise=machine, seed=1)
    # At the promised 5 % and 95 %, 300 trials give more than 26 or fewer than 274 less than once in a thousand times.
    assert rates.called_different <= 26 / 300
    assert rates.loss_found >= 274 / 300


def test_ten_rounds_call_equal_servers_the_same() -> None:
    assert simulation.simulate(Design(rounds=10), 100).called_same > 0.9


def test_the_simulation_is_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulation, "DESIGNS", simulation.DESIGNS[-1:])
    assert compare.main(["--simulate", "20"]) == 0
    out = capsys.readouterr().out
    assert "20 trials of each kind" in out
    assert "10 rounds of 5 and 5" in out
