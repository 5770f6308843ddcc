"""Measure what a server gives its users: time to first token, gaps between tokens, tokens per second.

    python -m nexus_tasks.benchmark                          # every instance on gpu-hosts, else on local
    python -m nexus_tasks.benchmark localhost/main --preset quick
    LLAMA_NEXUS_API_KEY=... python -m nexus_tasks.benchmark http://gpu1:8600 --api chat

    path = benchmark.run(target, benchmark.PRESETS["quick"])
    results.load(path).summary["metrics"]["ttft_ms"]["median"]

Requests go out one after another. All times are the client's; llama-server's own timings are stored beside
them and compared. What a record holds is in docs/records.md, what the numbers mean in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nexus_tasks import endpoint, inventory, prompts, provenance, results, stream, summary, telemetry
from nexus_tasks.endpoint import Endpoint
from nexus_tasks.errors import EndpointError, NexusError, UsageError, command_line
from nexus_tasks.inventory import Instance
from nexus_tasks.prompts import Prompt
from nexus_tasks.stream import Reading, StreamError

KIND = "benchmark"
TIMEOUT_S = 300.0
METRICS = {
    "ttft_ms": "TTFT, ms",
    "itl_ms": "ITL, ms",
    "total_ms": "request, ms",
    "decode_tps": "decode, tokens/s",
    "prefill_tps": "prefill, tokens/s",
}
SERVER_TIMINGS = ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "cache_n")
MASK = "***"

Clock = Callable[[], float]
Row = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """What is asked of a server. Lengths in tokens; ``api`` None means what suits the server."""

    prompt_tokens: int
    output_tokens: int
    runs: int
    warmup: int
    preset: str | None = None
    api: str | None = None
    same_prompt: bool = False


PRESETS = {
    preset.preset: preset
    for preset in (
        Workload(128, 64, runs=3, warmup=1, preset="quick"),
        Workload(512, 256, runs=5, warmup=1, preset="standard"),
        Workload(2048, 512, runs=3, warmup=1, preset="long-context"),
        Workload(64, 128, runs=5, warmup=2, preset="max-speed"),
    )
    if preset.preset
}
DEFAULT_PRESET = "standard"
APIS = ("completion", "chat")


@dataclass(frozen=True)
class Target:
    """A server to measure. ``name`` is the key of its history in reports."""

    name: str
    base_url: str
    api_key: str | None = field(default=None, repr=False)
    instance: Instance | None = field(default=None, repr=False)


def targets(text: str | None, environment: Mapping[str, str] = os.environ) -> list[Target]:
    """The servers that a command's TARGET names.

    Args:
        text: an inventory pattern, ``HOST/INSTANCE``, a base URL, or None for the inventory's default.
        environment: where the key of a base URL comes from.

    Raises:
        UsageError, DeployError: as :func:`inventory.deployed_instances` does.
    """
    if text is not None and "://" in text:
        address = endpoint.base_url(text)
        return [Target(address, address, environment.get(endpoint.API_KEY_VARIABLE) or None)]
    if text is not None and re.fullmatch(r"[\w.-]+:\d+(/.*)?", text):
        raise UsageError(f"{text} looks like an address without http://", hint=f"write http://{text}")
    return [
        Target(instance.target, instance.base_url, instance.api_key, instance)
        for instance in inventory.deployed_instances(text)
    ]


def preset(name: str) -> Workload:
    """The workload of a preset.

    Raises:
        UsageError: there is no such preset.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UsageError(f"unknown preset {name!r}", hint=f"the presets are {', '.join(PRESETS)}") from None


def settle(workload: Workload, found: Endpoint) -> Workload:
    """The workload as this server will get it.

    Raises:
        UsageError: a size that makes no sense, or more tokens than the server's context holds.
    """
    for name, least in (("prompt_tokens", 1), ("output_tokens", 1), ("runs", 1), ("warmup", 0)):
        if getattr(workload, name) < least:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} {getattr(workload, name)} is too few", hint=f"at least {least}")
    asked = workload.prompt_tokens + workload.output_tokens
    if found.n_ctx is not None and asked > found.n_ctx:
        raise UsageError(
            f"{workload.prompt_tokens} prompt and {workload.output_tokens} output tokens are {asked}, "
            f"more than the {found.n_ctx} of one slot of {found.base_url}",
            hint="ask for fewer with --prompt-tokens and --output-tokens, or raise the instance's ctx_size",
        )
    # Where the server can be told exact lengths, completions measure it best; elsewhere many have only chat.
    api = workload.api or ("completion" if found.engine == endpoint.LLAMA_CPP else "chat")
    return dataclasses.replace(workload, api=api)


def make_prompts(client: httpx.Client, found: Endpoint, workload: Workload) -> list[Prompt]:
    """A prompt for each request: different from their first token on, or the same where that is asked for."""
    requests = workload.warmup + workload.runs
    different = 1 if workload.same_prompt else requests
    length = workload.prompt_tokens
    if found.engine != endpoint.LLAMA_CPP:
        made = prompts.of_about(length, different)
    elif workload.api == "chat":
        made = prompts.chats(client, length, different)
    else:
        made = prompts.completions(client, length, different)
    return made * requests if workload.same_prompt else made


# --- one request


def request(found: Endpoint, workload: Workload, prompt: Prompt) -> tuple[str, dict[str, Any]]:
    """The path and the body that ask for one answer."""
    body: dict[str, Any] = {"temperature": 0, "stream": True}
    is_llama_server = found.engine == endpoint.LLAMA_CPP
    if is_llama_server:
        body["ignore_eos"] = True
    if workload.api == "completion" and is_llama_server:
        return "/completion", {**body, "prompt": prompt, "n_predict": workload.output_tokens}
    body |= {
        "model": found.model,
        "max_tokens": workload.output_tokens,
        "stream_options": {"include_usage": True},
    }
    if workload.api == "completion":
        return "/v1/completions", {**body, "prompt": prompt}
    if is_llama_server and not workload.same_prompt:
        # All chats begin with the template's tokens: other content alone does not keep the cache out.
        body["cache_prompt"] = False
    return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}


def measure(
    client: httpx.Client, path: str, body: dict[str, Any], *, timeout_s: float, clock: Clock
) -> tuple[float, float, Reading]:
    """Send one request and read its answer: the moments it was sent and ended, and what it said."""
    chunks: list[stream.Chunk] = []
    broken: StreamError | None = None
    begun = clock()
    try:
        # Nothing else happens in this loop: the next chunk's arrival must not wait for this one's meaning.
        for arrival, data in stream.post(client, path, body, silence_s=timeout_s, clock=clock):
            chunks.append((arrival, data))
    except StreamError as error:
        broken = error
    ended = clock()
    reading = stream.read(path, chunks, broken)
    sent = chunks[0][0] if chunks else begun
    return sent, reading.end or ended, reading


def request_row(found: Endpoint, workload: Workload, reading: Reading, *, sent: float, ended: float) -> Row:
    """One request as a record holds it, without ``index``, ``phase`` and ``start_s``.

    ``sent`` and ``ended`` are seconds on the clock that ``reading`` was taken with.
    """
    tokens = reading.tokens
    timings = reading.timings or {}
    output = reading.output_tokens if reading.output_tokens is not None else timings.get("predicted_n")
    complete = reading.end is not None
    decode_s = tokens[-1] - tokens[0] if tokens and complete else None
    # llama-server was told exact lengths; elsewhere they are up to the model.
    exact = found.engine == endpoint.LLAMA_CPP
    failure = reading.failure or (_wrong_length(workload, reading, output) if exact else None)
    prompt_n, prompt_ms = timings.get("prompt_n"), timings.get("prompt_ms")
    cached = bool(timings.get("cache_n"))
    return {
        "ok": failure is None,
        "error": None if failure is None else {"kind": failure.kind, "message": failure.message},
        "prompt_tokens": reading.prompt_tokens,
        "output_tokens": output if complete else len(tokens),
        "finish_reason": reading.finish_reason,
        "ttft_ms": _ms(tokens[0] - sent) if tokens else None,
        "decode_ms": _ms(decode_s) if decode_s is not None else None,
        "total_ms": _ms(ended - sent),
        "itl_ms": [_ms(later - earlier) for earlier, later in itertools.pairwise(tokens)],
        "decode_tps": (output - 1) / decode_s if decode_s and output is not None else None,
        "prefill_tps": prompt_n / prompt_ms * 1000 if prompt_n and prompt_ms and not cached else None,
        "server": {key: timings.get(key) for key in SERVER_TIMINGS} if timings else None,
    }


def _wrong_length(workload: Workload, reading: Reading, output: float | None) -> StreamError | None:
    if output is None or output < workload.output_tokens:
        wanted = workload.output_tokens
        return StreamError("short", f"{output} of {wanted} output tokens ({reading.finish_reason})")
    timings = reading.timings or {}
    seen = timings.get("prompt_n", 0) + timings.get("cache_n", 0)
    if seen != workload.prompt_tokens:
        return StreamError("protocol", f"the server saw {seen} of {workload.prompt_tokens} prompt tokens")
    return None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def summarise(rows: Sequence[Row], *, interrupted: bool, wall_s: float) -> Row:
    """The verdict on a run and its figures: failures of all phases, figures of good ``run`` requests."""
    failed = sum(not row["ok"] for row in rows)
    counted = [row for row in rows if row["ok"] and row["phase"] == "run"]
    points: dict[str, list[float]] = {
        metric: [row[metric] for row in counted if row[metric] is not None] for metric in METRICS if metric != "itl_ms"
    }
    points["itl_ms"] = [gap for row in counted for gap in row["itl_ms"]]
    return {
        "ok": not failed and not interrupted,
        "interrupted": interrupted,
        "requests": len(rows),
        "failed": failed,
        "wall_s": round(wall_s, 3),
        "metrics": {metric: summary.summarise(points[metric]) for metric in METRICS},
        "agreement": _agreement(counted),
    }


def _agreement(rows: Sequence[Row]) -> Row | None:
    """How far the client's decode time is from the server's own, over all rows that have both."""
    both = [
        (row["decode_ms"], row["server"]["predicted_ms"])
        for row in rows
        if row["decode_ms"] is not None and row["server"] and row["server"]["predicted_ms"]
    ]
    client_ms, server_ms = sum(c for c, _ in both), sum(s for _, s in both)
    if not server_ms:
        return None
    return {
        "client_decode_ms": round(client_ms, 3),
        "server_decode_ms": round(server_ms, 3),
        "difference_percent": (client_ms - server_ms) / server_ms * 100,
    }


# --- a run


def run(
    target: Target,
    workload: Workload,
    *,
    timeout_s: float = TIMEOUT_S,
    root: Path = results.ROOT,
    console: Console | None = None,
    clock: Clock = time.perf_counter,
) -> Path:
    """Measure one target and write its record.

    Args:
        timeout_s: the longest silence of the server within a request.
        root: the results folder.
        console: where progress is shown; None shows none.

    Returns:
        The record's path. Requests that failed are rows of it, and its summary's ``ok`` is false then.

    Raises:
        EndpointError: the server cannot be measured at all.
        UsageError: the workload does not fit the server.
        RecordError: the record cannot be written.
        KeyboardInterrupt: after the record was finished with ``interrupted`` true.
    """
    with endpoint.connect(target.base_url, target.api_key) as client:
        found = endpoint.probe(client)
        workload = settle(workload, found)
        if console:
            server = f"{target.name}: {found.model} at {found.base_url} ({found.engine})"
            console.print(server, soft_wrap=True, markup=False)
        asked = make_prompts(client, found, workload)
    begin = functools.partial(results.create, KIND, target=target.name, root=root)
    with telemetry.Gpus() as gpus, begin(header(target, found, workload, gpus)) as record:
        rows: list[Row] = []
        interrupted = False
        origin = clock()
        with (
            endpoint.connect(target.base_url, target.api_key, keep_alive=False) as client,
            telemetry.Sampler(gpus, origin=origin, clock=clock) as sampler,
            _Ticker(console, workload) as ticker,
        ):
            try:
                for index, prompt in enumerate(asked):
                    ticker.begin(index)
                    path, body = request(found, workload, prompt)
                    sent, ended, reading = measure(client, path, body, timeout_s=timeout_s, clock=clock)
                    row = {
                        "type": "request",
                        "index": index,
                        "phase": "warmup" if index < workload.warmup else "run",
                        "start_s": round(sent - origin, 4),
                        **request_row(found, workload, reading, sent=sent, ended=ended),
                    }
                    _hide(row, target.api_key)
                    rows.append(row)
                    record.append(row)
                    _append_all(record, sampler.take())
                    ticker.end(row)
            except KeyboardInterrupt:
                interrupted = True
        wall_s = clock() - origin
        _append_all(record, sampler.take())
        record.finish(summarise(rows, interrupted=interrupted, wall_s=wall_s))
    if interrupted:
        if console:
            console.print(f"interrupted; what was measured is in {record.path}", soft_wrap=True)
        raise KeyboardInterrupt
    return record.path


def _append_all(record: results.Writer, rows: Sequence[Row]) -> None:
    for row in rows:
        record.append(row)


def header(target: Target, found: Endpoint, workload: Workload, gpus: telemetry.Gpus) -> Row:
    """What a record says about the run, besides what every record says."""
    instance = target.instance
    model: Mapping[str, Any] = (instance.model if instance else None) or {}
    model_path = model.get("path") or found.model_path
    local = _is_local(found.base_url, model_path)
    size = model.get("size_bytes")
    if size is None and local and model_path:
        with contextlib.suppress(OSError):
            size = Path(model_path).stat().st_size
    return {
        "target": target.name,
        "endpoint": {
            "base_url": found.base_url,
            "host": instance.host if instance else None,
            "instance": instance.name if instance else None,
            "engine": found.engine,
            "model": found.model,
        },
        "model": {
            "name": model.get("name"),
            "path": model_path,
            "size_bytes": size,
            "sha256": model.get("sha256"),
            "n_params": found.n_params,
            "n_ctx_train": found.n_ctx_train,
        },
        "server": {
            "build": found.build,
            "release": instance.release.get("name") if instance else None,
            "argv": _without_keys(instance.argv, target.api_key) if instance else None,
            "argv_sha256": instance.argv_sha256 if instance else None,
            "n_ctx": found.n_ctx,
            "total_slots": found.total_slots,
        },
        "client": {**provenance.client(), "local": local},
        "gpus": gpus.as_rows(),
        "nvml_error": gpus.nvml_error,
        "git": provenance.git(),
        "workload": {
            "preset": workload.preset,
            "prompt_tokens": workload.prompt_tokens,
            "output_tokens": workload.output_tokens,
            "runs": workload.runs,
            "warmup": workload.warmup,
            "api": workload.api,
            "prompts": "same" if workload.same_prompt else "unique",
            "temperature": 0,
            "ignore_eos": found.engine == endpoint.LLAMA_CPP,
        },
    }


def _is_local(address: str, model_path: str | None) -> bool:
    """Whether the server runs on this machine, so that its load is in the telemetry."""
    host = httpx.URL(address).host
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    if not all(endpoint.is_loopback(a) or a in own for a in addresses):
        return False
    # A tunnel ends on this machine as well, but then the model's file is elsewhere.
    return model_path is None or os.path.exists(model_path)  # noqa: PTH110 - Path.exists raises for what it may not see


def _without_keys(argv: Sequence[str], api_key: str | None) -> list[str]:
    """An argv fit for a record: a key that somebody put there in spite of --api-key-file is masked."""
    masked = [
        MASK if before == "--api-key" else re.sub(r"(?<=^--api-key=).*", MASK, word)
        for before, word in zip(["", *argv], argv, strict=False)
    ]
    return [word.replace(api_key, MASK) for word in masked] if api_key else masked


def _hide(row: Row, api_key: str | None) -> None:
    """Mask the key in what a server said about a failure: some repeat it."""
    if api_key and row["error"]:
        row["error"]["message"] = row["error"]["message"].replace(api_key, MASK)


# --- for people


class _Ticker:
    """Tells how far a run is: a bar on a terminal, a line per request elsewhere.

    The bar is drawn between requests, and during one only every five seconds: drawing takes milliseconds of
    this process, which would land in the gaps between tokens.
    """

    def __init__(self, console: Console | None, workload: Workload) -> None:
        self._console = console
        self._workload = workload
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=0.2,
            transient=True,
            disable=console is None or not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=workload.warmup + workload.runs)
        self._last = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, index: int) -> None:
        self._bar.update(self._task, description=f"{self._label(index)}{self._last}", refresh=True)

    def end(self, row: Row) -> None:
        outcome = (
            f"TTFT {_number(row['ttft_ms'])} ms, {_number(row['decode_tps'])} tokens/s"
            if row["ok"]
            else f"failed: {row['error']['kind']}: {row['error']['message']}"
        )
        self._last = f" (last {outcome})" if row["ok"] else " (last failed)"
        self._bar.advance(self._task)
        if self._console and (self._bar.disable or not row["ok"]):
            self._console.print(f"  {self._label(row['index'])}: {outcome}", soft_wrap=True, markup=False)

    def _label(self, index: int) -> str:
        warmup, runs = self._workload.warmup, self._workload.runs
        return f"warm-up {index + 1}/{warmup}" if index < warmup else f"run {index - warmup + 1}/{runs}"


def print_summary(record: results.Record, console: Console) -> None:
    """The figures of a finished record, as a table that fits 80 columns."""
    outcome = record.summary or {}
    work = record.header["workload"]
    table = Table(title=record.header["target"], title_justify="left", title_style="bold")
    table.add_column("")
    columns = ("median", "mean", "stdev", "min", "max", "p95", "n")
    for column in columns:
        table.add_column(column, justify="right")
    for metric, label in METRICS.items():
        figures = outcome["metrics"][metric] or {}
        table.add_row(label, *(_number(figures.get(column)) for column in columns))
    console.print(table)
    same = work["prompts"] == "same"
    console.print(
        f"{work['prompt_tokens']} prompt + {work['output_tokens']} output tokens, {work['runs']} runs + "
        f"{work['warmup']} warm-up, {work['api']}, {work['prompts']} prompt{'' if same else 's'}"
    )
    if outcome["agreement"]:
        difference = outcome["agreement"]["difference_percent"]
        console.print(f"decode time against the server's own timings: {difference:+.2f} %")
    if outcome["failed"]:
        console.print(f"{outcome['failed']} of {outcome['requests']} requests failed", style="bold red")
        for row in record.requests:
            if not row["ok"]:
                error = row["error"]
                console.print(f"  request {row['index']}: {error['kind']}: {error['message']}", markup=False)
    console.print(f"record: {record.path}", soft_wrap=True, highlight=False)


def _number(value: float | None) -> str:
    """Four figures at most, so that columns stay narrow."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.{2 if abs(value) < 100 else 1}f}"


# --- the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nox -s benchmark --",
        description="Measure servers over HTTP and write run records.",
        epilog="\n".join(["presets:", *_preset_lines()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        nargs="?",
        help="an inventory pattern, HOST/INSTANCE, or a base URL (http://...) whose key is in "
        f"{endpoint.API_KEY_VARIABLE} (default: all on {inventory.FLEET}, or on {inventory.HERE} while that is empty)",
    )
    parser.add_argument(
        "--preset", metavar="NAME", default=DEFAULT_PRESET, help="the workload, see below (default: %(default)s)"
    )
    sizes = {
        "prompt-tokens": "tokens of each prompt",
        "output-tokens": "tokens to generate",
        "runs": "requests that count",
        "warmup": "requests before them that don't",
    }
    for name, text in sizes.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{text}, instead of the preset's")
    parser.add_argument(
        "--api", choices=APIS, help="what is asked for (default: completion of llama-server, chat of other servers)"
    )
    parser.add_argument(
        "--same-prompt",
        action="store_true",
        help="send one prompt again and again, so that the server's prefix cache shows",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help="longest silence of a server within a request, in seconds (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON and nothing else")
    parser.add_argument(
        "--results", type=Path, default=results.ROOT, metavar="DIR", help="where the records go (default: %(default)s)"
    )
    return parser


def _preset_lines() -> list[str]:
    width = max(map(len, PRESETS))
    return [
        f"  {name:<{width}}  {work.prompt_tokens:>4} prompt + {work.output_tokens:>3} output tokens, "
        f"{work.runs} runs + {work.warmup} warm-up"
        for name, work in PRESETS.items()
    ]


def _workload(options: argparse.Namespace) -> Workload:
    """The preset with the sizes that were given; it keeps the preset's name only while it is the preset."""
    base = preset(options.preset)
    names = ("prompt_tokens", "output_tokens", "runs", "warmup")
    sizes = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    changed = dataclasses.replace(base, **sizes)
    return dataclasses.replace(
        changed,
        preset=base.preset if changed == base else None,
        api=options.api,
        same_prompt=options.same_prompt,
    )


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the targets one after another; 1 when anything failed."""
    options = _parser().parse_args(argv)
    workload = _workload(options)
    if options.timeout <= 0:
        raise UsageError(f"--timeout {options.timeout:g} leaves no time", hint="give seconds above 0")
    console = Console(stderr=True) if options.json else Console()
    records: list[results.Record] = []
    errors: list[NexusError] = []
    for target in targets(options.target):
        try:
            path = run(target, workload, timeout_s=options.timeout, root=options.results, console=console)
        except EndpointError as error:  # the others may well be up
            errors.append(error)
            continue
        records.append(results.load(path))
        if not options.json:
            print_summary(records[-1], console)
    if options.json:
        sys.stdout.write(json.dumps([_as_json(record) for record in records], indent=2) + "\n")
    if errors:
        raise EndpointError("; ".join(error.message for error in errors), hint=errors[0].hint)
    return 0 if all(record.summary and record.summary["ok"] for record in records) else 1


def _as_json(record: results.Record) -> Row:
    return {
        "target": record.header["target"],
        "run_id": record.run_id,
        "record": str(record.path),
        **{key: value for key, value in (record.summary or {}).items() if key != "type"},
    }


if __name__ == "__main__":
    sys.exit(main())
