"""Rates of batches: what they reach beside bare tools, on this machine.

    python -m tests.batch_rates [--size 0.1] [NAME ...]

    throughput   tokens/s and busy slots of a real llama-server, beside llama-batched-bench and the OpenAI client
    split        two servers of unequal speed, beside the ideal split
    half_dies    two servers of which one dies half-way: the rows that each answered
    rows         short rows over HTTP against the server with a known schedule: rows/s, memory
    journal      entries written and read again, without HTTP
    resume       the time until a batch that is half done asks its next row

Each prints its figures; the full sizes take about half an hour on two cores. ``nox -s soak`` holds their bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import psutil

from nexus_tasks.batches import journal
from nexus_tasks.batches.entries import Answer, Answered, Begun, Entry, Usage
from nexus_tasks.batches.job import Folder
from nexus_tasks.load.selfcheck.mock_server import mock_server
from nexus_tasks.model_store import tiny_model
from tests.conftest import cache_folder, run_server, wait_for
from tests.support import batch_jobs
from tests.support.batch_servers import Served, Steady, steady, watched

MOCK_MODEL, MOCK_BUILD = "gpt-oss-20b-mxfp4", "b9870-0fbbb3ec6"
SLOTS = 4
LOOK_S = 0.05
PROMPT_SYLLABLES = 24
LARGE = tiny_model.Shape(n_layer=8, n_embd=1024, n_head=16, n_head_kv=4, n_ff=4096)
"""A step of four slots takes more than 20 ms with one thread."""


@dataclass(frozen=True)
class Throughput:
    """Tokens per second, prompts and answers, of three clients of one model; ratios are to llama-batched-bench."""

    step_ms: float
    bench_tps: float
    batch: Steady
    openai: Steady

    @property
    def batch_ratio(self) -> float:
        return self.batch.tokens_per_s / self.bench_tps

    @property
    def openai_ratio(self) -> float:
        return self.openai.tokens_per_s / self.bench_tps


@dataclass(frozen=True)
class Rows:
    """A batch of short rows: its rate from begin to end, and the most memory that it had."""

    rows_per_s: float
    rss_mib: float
    cpu_s: float


@dataclass(frozen=True)
class JournalRates:
    """A journal without HTTP: rows written per second, and seconds until it was read again."""

    rows_per_s: float
    read_s: float


@dataclass(frozen=True)
class Split:
    """Two servers of unequal speed: seconds beside the ideal ones, and the rows that each answered."""

    seconds: float
    ideal_s: float
    rows: dict[str, int]


# --- a real llama-server


def throughput(
    folder: Path,
    rows: int,
    rounds: int = 3,
    shape: tiny_model.Shape = LARGE,
    max_tokens: int = 96,
    every_s: float = 1.0,
) -> Throughput:
    """llama-batched-bench, a batch, and the OpenAI client in turns, ``rounds`` times; medians."""
    binaries = cache_folder() / "current" / "bin"
    model = folder / "large.gguf"
    tiny_model.write(model, shape=shape)
    seeds = itertools.count()  # no prompt twice: the server would find it in its cache
    prompts: Callable[[], list[str]] = lambda: [syllables(next(seeds)) for _ in range(rows)]  # noqa: E731 - used twice
    benches, batches, loops = [], [], []
    with run_server(
        binaries / "llama-server", model, folder / "server.log", "--parallel", str(SLOTS), "--metrics"
    ) as server:
        for turn in range(rounds):
            jobs = folder / f"turn-{turn}"
            with watched(server.base_url, every_s=every_s) as samples:
                _run_batch(jobs, prompts(), server.base_url, "--max-tokens", str(max_tokens))
            served = _served(jobs)
            batches.append(steady(samples, served, SLOTS))
            with watched(server.base_url, every_s=every_s) as samples:
                loops.append(steady(samples, asyncio.run(_openai_loop(server.base_url, prompts(), max_tokens)), SLOTS))
            prompt_tokens = round(fmean(request.prompt_tokens for request in served))
            output_tokens = round(fmean(request.output_tokens for request in served))
            benches.append(
                _batched_bench(binaries / "llama-batched-bench", model, prompt_tokens, output_tokens, rounds)
            )
    middle: Callable[[Steady], float] = lambda found: found.tokens_per_s  # noqa: E731 - a key, used twice
    return Throughput(
        step_ms=median(step for step, _ in benches),
        bench_tps=median(tps for _, tps in benches),
        batch=sorted(batches, key=middle)[len(batches) // 2],
        openai=sorted(loops, key=middle)[len(loops) // 2],
    )


def syllables(seed: int) -> str:
    """A prompt of so many tokens of the tiny model; no two begin alike."""
    draws = random.Random(seed)  # noqa: S311 - no secret
    return "".join(f" {draws.choice('bcdfghjk')}{draws.choice('aeiou')}" for _ in range(PROMPT_SYLLABLES))


def _batched_bench(
    binary: Path, model: Path, prompt_tokens: int, output_tokens: int, rounds: int
) -> tuple[float, float]:
    """The mean step in milliseconds, and tokens per second, at the batch's sizes.

    The first round is warm-up. The tool's log is written by a thread, and ends on a busy machine before its last line:
    one round more than is counted.
    """
    done = subprocess.run(
        [binary, "-m", model, "-c", "4096", "-t", "1", "-tb", "1", "-npp", str(prompt_tokens),
         "-ntg", str(output_tokens), "-npl", ",".join([str(SLOTS)] * (2 + rounds)), "--output-format", "jsonl"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    counted = lines[1 : 1 + rounds]
    assert counted, done.stdout[-2000:] + done.stderr[-2000:]
    return (
        median(1000 * line["t_tg"] / output_tokens for line in counted),
        median(line["speed"] for line in counted),
    )


def _served(jobs: Path) -> list[Served]:
    """The requests of a batch, by its journal."""
    return [
        Served(
            entry.at,
            (entry.usage.prompt_tokens or 0) - (entry.usage.cached_tokens or 0),
            entry.usage.output_tokens or 0,
        )
        for entry in batch_jobs.entries_of(jobs)
        if isinstance(entry, Answered)
    ]


async def _openai_loop(base_url: str, prompts: Sequence[str], max_tokens: int) -> list[Served]:
    """What one writes without a batch: the OpenAI client and a semaphore."""
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=2)
    free = asyncio.Semaphore(SLOTS)

    async def one(prompt: str) -> Served:
        async with free:
            answer = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": prompt}], max_tokens=max_tokens
            )
        usage = answer.usage
        assert usage
        details = usage.prompt_tokens_details
        cached = (details.cached_tokens if details else 0) or 0
        return Served(time.time(), usage.prompt_tokens - cached, usage.completion_tokens)

    async with client:
        return await asyncio.gather(*map(one, prompts))


# --- the server with a known schedule


def split(folder: Path, rows: int) -> Split:
    """Two servers with four slots each, of which one takes 100 ms for a row and the other 250 ms."""
    with mock_server(ttft_ms=100, slots=SLOTS) as fast, mock_server(ttft_ms=250, slots=SLOTS) as slow:
        _run_batch(folder / "split", [f"row {number}" for number in range(rows)], fast, slow, "--max-tokens", "1")
    entries = batch_jobs.entries_of(folder / "split")
    begun = min(entry.at for entry in entries if isinstance(entry, Begun))
    answers = [entry for entry in entries if isinstance(entry, Answered)]
    return Split(
        seconds=max(entry.at for entry in answers) - begun,
        ideal_s=rows / (SLOTS / 0.100 + SLOTS / 0.250),
        rows=dict(Counter(entry.endpoint for entry in answers)),
    )


def half_dies(folder: Path, rows: int) -> dict[str, int]:
    """The rows that each of two servers answered, of which the first dies when half of them are done."""
    jobs = folder / "half"
    jobs.mkdir()
    prompts = _write_prompts(jobs, [f"row {number}" for number in range(rows)])
    journal_path = Folder(jobs / batch_jobs.NAME).journal
    with mock_server(ttft_ms=100, slots=SLOTS) as other, contextlib.ExitStack() as mortal:
        dies = mortal.enter_context(mock_server(ttft_ms=100, slots=SLOTS))
        process = batch_jobs.begin(prompts, dies, other, jobs=jobs, options=["--max-tokens", "1"])
        wait_for(
            lambda: (
                process.poll() is not None
                or (journal_path.exists() and journal_path.read_bytes().count(b'"answered"') >= rows // 2)
            ),
            "half of the rows",
        )
        mortal.close()
        assert process.wait(timeout=600) == 0, batch_jobs.said(jobs)
    return dict(Counter(entry.endpoint for entry in batch_jobs.entries_of(jobs) if isinstance(entry, Answered)))


def short_rows(folder: Path, rows: int) -> Rows:
    """Short rows over HTTP; both the batch and the server have this machine's cores."""
    with mock_server(slots=32) as address:
        return _run_batch(folder / "rows", [f"row {number}" for number in range(rows)], address, "--max-tokens", "1")


def journal_alone(folder: Path, rows: int, per_tick: int = 16) -> JournalRates:
    """Entries as a batch writes them, in its ticks; then all of them read."""
    path = folder / "alone.jsonl"
    began = time.perf_counter()
    with journal.opened(path, rows) as log:
        for first in range(0, rows, per_tick):
            items = list(range(first, min(first + per_tick, rows)))
            log.write([Begun(items, "mock", time.time())])
            log.write([_answered(item, bytes(16)) for item in items])
    written = time.perf_counter()
    assert journal.read(path, rows).done == rows
    return JournalRates(rows / (written - began), time.perf_counter() - written)


def resume(folder: Path, rows: int) -> float:
    """Seconds from the command to the next request of a batch that is half done."""
    jobs = folder / "resume"
    jobs.mkdir()
    prompts = _write_prompts(jobs, [f"row {number}" for number in range(rows)])
    job = Folder(jobs / batch_jobs.NAME)
    with mock_server(ttft_ms=60_000, slots=SLOTS) as address:
        process = batch_jobs.begin(prompts, address, jobs=jobs, options=["--max-tokens", "1"])
        wait_for(lambda: job.journal.exists() and b'"begun"' in job.journal.read_bytes(), "the first request", 600)
        process.kill()
        process.wait()
        keys = job.rows_index.read_bytes()[-16 * rows :]
        with journal.opened(job.journal, rows) as log:
            for first in range(0, rows // 2, 1000):
                items = range(first, min(first + 1000, rows // 2))
                log.write([_answered(item, keys[16 * item :][:16], address) for item in items])
        size = job.journal.stat().st_size
        began = time.perf_counter()
        process = batch_jobs.begin(prompts, address, jobs=jobs)
        wait_for(lambda: process.poll() is not None or _begins(job.journal, size), "the next request", 600)
        seconds = time.perf_counter() - began
        assert process.poll() is None, batch_jobs.said(jobs)
        process.kill()
        process.wait()
    return seconds


def _begins(path: Path, offset: int) -> bool:
    with path.open("rb") as stream:
        stream.seek(offset)
        return b'"begun"' in stream.read()


def _answered(item: int, key: bytes, endpoint: str = "mock") -> Entry:
    return Answered(
        item, key.hex(), endpoint, MOCK_MODEL, MOCK_BUILD, time.time(), 12.5,
        Answer(text=" a" * 60, finish_reason="length"), Usage(40, 60, 0), ttft_ms=3.4, decode_tps=30.0,
    )  # fmt: skip


# --- processes


def _write_prompts(jobs: Path, prompts: Sequence[str]) -> Path:
    path = jobs / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return path


def _run_batch(jobs: Path, prompts: Sequence[str], *words: str) -> Rows:
    """Run a batch to its end; AssertionError where a row has no answer. ``words``: addresses, then options."""
    jobs.mkdir()
    addresses = [word for word in words if word.startswith("http")]
    began = time.perf_counter()
    process = batch_jobs.begin(_write_prompts(jobs, prompts), *addresses, jobs=jobs, options=[*words[len(addresses) :]])
    rss_kib, cpu_s = 0, 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error, OSError, LookupError):
            # What the kernel says of a child that ended counts the memory of its parent at the fork, too.
            status = Path(f"/proc/{process.pid}/status").read_text()
            rss_kib = max(rss_kib, int(status.split("VmHWM:")[1].split()[0]))
            cpu_s = sum(psutil.Process(process.pid).cpu_times()[:2])
        time.sleep(LOOK_S)
    seconds = time.perf_counter() - began
    assert process.returncode == 0, batch_jobs.said(jobs)[-3000:]
    return Rows(len(prompts) / seconds, rss_kib / 1024, cpu_s)


# --- the program


def main(words: Sequence[str]) -> None:
    """Print the figures that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*TRIALS, []], help=", ".join(TRIALS))
    parser.add_argument("--size", type=float, default=1.0, help="a share of the full sizes")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="llama-nexus-rates-") as folder:
        for name in given.names or TRIALS:
            print(f"{name}: {TRIALS[name](Path(folder), given.size)}", flush=True)  # noqa: T201 - the program's output


TRIALS: dict[str, Callable[[Path, float], object]] = {
    "throughput": lambda folder, size: throughput(folder, round(60 * size)),
    "split": lambda folder, size: split(folder, round(2000 * size)),
    "half_dies": lambda folder, size: half_dies(folder, round(2000 * size)),
    "rows": lambda folder, size: short_rows(folder, round(1_000_000 * size)),
    "journal": lambda folder, size: journal_alone(folder, round(1_000_000 * size)),
    "resume": lambda folder, size: resume(folder, round(1_000_000 * size)),
}

if __name__ == "__main__":
    main(sys.argv[1:])
