"""Simulation of statistical power: made-up runs of a known noise and difference, judged as real ones are.

    nox -s compare -- --simulate                           # 2000 trials of each kind

    a, b = simulation.pair(rng, simulation.Noise(), simulation.Design(rounds=10), loss_percent=5)
    verdicts.judge([a], [b]).findings

A server decodes 100 tokens per second and answers after 120 ms. On top of that lies, all of it log-normal:

drift      The machine's speed at a moment, in memory bandwidth and in arithmetic each: temperature, clocks, what else
           it does. It wanders (Ornstein-Uhlenbeck) and forgets itself in five minutes, so that runs hours apart
           differ, and rounds of an interleaved run share it.
process    What stays the same for one start of a server, such as where its memory lies. No interleaving takes it away.
request    What is different for each request.
token      The jitter of each gap. A few gaps are several times as long: the host did something else.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nexus_tasks.comparison import verdicts
from nexus_tasks.comparison.quantities import DECODE
from nexus_tasks.comparison.verdicts import Comparison
from nexus_tasks.records.benchmark_rows import (
    BenchmarkHeader,
    BenchmarkSummary,
    Client,
    Endpoint,
    Git,
    HostState,
    Lengths,
    Limits,
    Load,
    Model,
    Planned,
    RequestRow,
    Server,
    Workload,
)
from nexus_tasks.records.schema import NEWEST
from nexus_tasks.records.store import BenchmarkRecord

Floats = NDArray[np.float64]

GAP_MS = 10.0
TTFT_MS = 120.0
PROMPT_TOKENS = 512
OUTPUT_TOKENS = 256
WARMUP_S = 3.0
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Noise:
    """Deviations in per cent. What they stand for is at the top of this module."""

    drift: float = 0.7
    drift_s: float = 300.0
    process: float = 0.2
    request_gap: float = 1.0
    request_ttft: float = 3.0
    token: float = 5.0
    stalled_percent: float = 0.2
    stall_factor: float = 3.0


@dataclass(frozen=True)
class Design:
    """Design of a comparison: two runs after one another with hours between, or in turn when ``rounds`` is above 1."""

    name: str = ""
    requests: int = 5
    rounds: int = 1
    repeats: int = 1

    @property
    def is_interleaved(self) -> bool:
        return self.rounds > 1


DESIGNS = (
    Design("two runs of 5 requests", requests=5),
    Design("two runs of 10", requests=10),
    Design("two runs of 20", requests=20),
    Design("3 and 3 runs of 5", requests=5, repeats=3),
    Design("5 rounds of 5 and 5", rounds=5),
    Design("10 rounds of 5 and 5", rounds=10),
)


MACHINES = {
    "a machine as assumed": Noise(),
    "one that drifts twice as much": Noise(drift=2 * Noise.drift),
}


@dataclass(frozen=True)
class Rates:
    """Frequencies of the verdicts that a design came to, from 0 to 1."""

    design: Design
    called_different: float
    """A against A: any quantity better or worse."""
    called_same: float
    """A against A: decoding is the same."""
    loss_found: float
    """Decoding is 5 % slower: it is called worse."""


def pair(
    rng: np.random.Generator, noise: Noise, design: Design, *, loss_percent: float = 0.0
) -> tuple[list[BenchmarkRecord], list[BenchmarkRecord]]:
    """The runs of A and of B, which decodes slower by so many per cent."""
    slower = 1 / (1 - loss_percent / 100)
    if not design.is_interleaved:
        return (
            [_run(rng, noise, design, f"a{n}") for n in range(design.repeats)],
            [_run(rng, noise, design, f"b{n}", slower=slower) for n in range(design.repeats)],
        )
    # A B, B A, A B: rounds as nox -s benchmark -- --interleave has them.
    request_s = (TTFT_MS + GAP_MS * OUTPUT_TOKENS) / 1000
    block_s = WARMUP_S + design.requests * request_s
    turns = np.arange(design.rounds)
    within = WARMUP_S + np.arange(design.requests) * request_s
    of_a, of_b = (((turns[:, None] * 2 + (turns[:, None] + side) % 2) * block_s + within).ravel() for side in (0, 1))
    moments = np.concatenate([of_a, of_b])
    bandwidth, arithmetic = _drift(rng, noise, moments), _drift(rng, noise, moments)
    half = len(of_a)
    return (
        [_run(rng, noise, design, "a", of_a, (bandwidth[:half], arithmetic[:half]), partner="b")],
        [_run(rng, noise, design, "b", of_b, (bandwidth[half:], arithmetic[half:]), partner="a", slower=slower)],
    )


def simulate(
    design: Design, trials: int, *, noise: Noise | None = None, loss_percent: float = 5.0, seed: int = 0
) -> Rates:
    """Judge so many pairs of equal runs, and so many in which B lost decode speed."""
    rng = np.random.default_rng(seed)
    noise = noise or Noise()
    equal = [verdicts.judge(*pair(rng, noise, design)) for _ in range(trials)]
    slower = [verdicts.judge(*pair(rng, noise, design, loss_percent=loss_percent)) for _ in range(trials)]
    different = [
        any(finding.verdict in (verdicts.BETTER, verdicts.WORSE) for finding in comparison.findings)
        for comparison in equal
    ]
    return Rates(
        design,
        called_different=sum(different) / trials,
        called_same=sum(_decoding(comparison) == verdicts.SAME for comparison in equal) / trials,
        loss_found=sum(_decoding(comparison) == verdicts.WORSE for comparison in slower) / trials,
    )


def show(trials: int, console: Console) -> int:
    """Simulate all designs on all machines and print how often verdicts are right.

    Returns:
        1 where two equal runs are called different more often than in 5 %, or a loss of 5 % is found less often than in
        95 % of trials, in an interleaved run or in runs of 10 requests on a machine as assumed; else 0.
    """
    right = True
    for machine, noise in MACHINES.items():
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("design", "A/A different", "A/A decode same", "5 % loss found", "CPU"):
            table.add_column(heading, justify="left" if heading == "design" else "right", no_wrap=True)
        for design in DESIGNS:
            begun = time.process_time()
            rates = simulate(design, trials, noise=noise)
            cpu_s = time.process_time() - begun
            shares = (rates.called_different, rates.called_same, rates.loss_found)
            table.add_row(design.name, *(f"{share:.1%}" for share in shares), f"{cpu_s:.0f} s")
            promised = design.is_interleaved or (noise == Noise() and design.requests >= 10)
            right &= not promised or (rates.called_different <= 0.05 and rates.loss_found >= 0.95)
        console.print(f"{machine}, {trials} trials of each kind", highlight=False)
        console.print(table)
    return 0 if right else 1


def _decoding(comparison: Comparison) -> str:
    return next(finding.verdict for finding in comparison.findings if finding.name == DECODE.name)


def _drift(rng: np.random.Generator, noise: Noise, moments: Floats) -> Floats:
    """The logarithm of the machine's speed at some moments, in seconds."""
    order = np.argsort(moments)
    values = np.empty(len(moments))
    deviation, before, value = noise.drift / 100, -math.inf, 0.0
    for place in order:
        kept = math.exp(-(moments[place] - before) / noise.drift_s)
        value = kept * value + math.sqrt(1 - kept * kept) * deviation * rng.standard_normal()
        values[place], before = value, float(moments[place])
    return values


def _run(
    rng: np.random.Generator, noise: Noise, design: Design, run_id: str, moments: Floats | None = None,
    drift: tuple[Floats, Floats] | None = None, *, partner: str | None = None, slower: float = 1.0,
) -> BenchmarkRecord:  # fmt: skip
    if moments is None:
        moments = WARMUP_S + np.arange(design.requests) * (TTFT_MS + GAP_MS * OUTPUT_TOKENS) / 1000
    bandwidth, arithmetic = drift or (_drift(rng, noise, moments), _drift(rng, noise, moments))
    count = len(moments)

    def spread(percent: float, *shape: int) -> Floats:
        return rng.normal(0.0, percent / 100, shape)

    of_gaps = bandwidth + spread(noise.process, 1) + spread(noise.request_gap, count) + math.log(slower)
    gaps = GAP_MS * np.exp(of_gaps[:, None] + spread(noise.token, count, OUTPUT_TOKENS - 1))
    gaps *= np.where(rng.random(gaps.shape) < noise.stalled_percent / 100, noise.stall_factor, 1.0)
    of_prompts = arithmetic + spread(noise.process, 1)
    prompt_ms = 0.9 * TTFT_MS * np.exp(of_prompts + spread(noise.request_gap, count))
    ttft_ms = prompt_ms + 0.1 * TTFT_MS + TTFT_MS * np.abs(spread(noise.request_ttft, count))
    rows = [
        _request(index, index // design.requests, float(moments[index]), float(ttft_ms[index]), gaps[index],
                 float(prompt_ms[index]))
        for index in range(count)
    ]  # fmt: skip
    return BenchmarkRecord(
        Path(f"{run_id}.jsonl"), header(run_id, partner=partner, requests=design.requests), rows,
        summary=BenchmarkSummary(
            ok=True, valid=True, reasons=[], interrupted=False, stopped=None, wall_s=0.0, knee=None, agreement=None,
            energy=None, metrics={}, throughput=None, goodput=None, requests=count, failed=0, short=0, stalls=0,
        ),
    )  # fmt: skip


def _request(index: int, number: int, start_s: float, ttft_ms: float, gaps: Floats, prompt_ms: float) -> RequestRow:
    decode_ms = float(gaps.sum())
    return RequestRow(
        index=index, stage=0, round=number, phase="run", key=None, conversation=None, turn=0, worker=0,
        intended_s=start_s, start_s=start_s, late_ms=0.0, ok=True, error=None, prompt_tokens=PROMPT_TOKENS,
        output_tokens=OUTPUT_TOKENS, reasoning_tokens=None, cached_tokens=None, draft=None, finish_reason=None,
        ttft_ms=ttft_ms, ttft_visible_ms=None, queue_ms=None, decode_ms=decode_ms, total_ms=ttft_ms + decode_ms,
        tpot_ms=None, itl_ms=gaps.tolist(), stalls=0, decode_tps=(OUTPUT_TOKENS - 1) / decode_ms * 1000,
        prefill_tps=PROMPT_TOKENS / prompt_ms * 1000, server=None, backend=None,
    )  # fmt: skip


def header(run_id: str, *, partner: str | None = None, requests: int = 5) -> BenchmarkHeader:
    """The header of a made-up run: a server, a machine and a workload that agree with one another."""
    started = NOON + timedelta(seconds=len(run_id))
    return BenchmarkHeader(
        schema=NEWEST["benchmark"], kind="benchmark", run_id=run_id, started_at=started.isoformat(),
        target="made-up", git=Git(commit=None, dirty=None), tag=None,
        endpoint=Endpoint(
            base_url="http://127.0.0.1:8600", host="localhost", instance="main", engine="llama.cpp", model="made-up",
            tunnel=None, preset=None,
        ),
        model=Model(name="made-up", path=None, size_bytes=None, sha256=None, n_params=None, n_ctx_train=None),
        server=Server(build="b1", release="b1-cpu", argv=None, argv_sha256=None, n_ctx=4096, total_slots=1),
        client=Client(hostname="here", os="", python="", cpu=None, cpu_count=None, memory_mib=0.0, local=True),
        gpus=[], nvml_error=None,
        host_state=HostState(driver=None, power_limit_w=None, clocks_max_mhz=None, governor=None),
        workload=Workload(
            preset="standard", kind="synthetic", api="completion",
            prompt_tokens=Lengths(kind="fixed", mean=PROMPT_TOKENS),
            output_tokens=Lengths(kind="fixed", mean=OUTPUT_TOKENS), prompts="unique", turns=1, prefix_tokens=0,
            lengths=None, file=None, documents=None, temperature=0.0, ignore_eos=True, seed=0,
        ),
        load=Load(
            engine="http", mode="closed", axis=None,
            planned=[Planned(concurrency=1, requests=requests, warmup=1, ramp_s=0.0)], until=None, slo={},
            limits=Limits(token_s=300.0, request_s=None, max_error_rate=None), processes=1, rounds=1, commands=None,
            servers_beside=None, interleaved_with=partner,
        ),
    )  # fmt: skip
