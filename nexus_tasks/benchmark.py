"""The command that measures servers, and what its options come to.

    python -m nexus_tasks.benchmark                                  # every instance on gpu-hosts, else on local
    python -m nexus_tasks.benchmark localhost/main --preset quick
    python -m nexus_tasks.benchmark gpu-hosts --sweep
    LLAMA_NEXUS_API_KEY=... python -m nexus_tasks.benchmark http://gpu1:8600 --rate 2 --duration 60

What is measured, and how, is in measure.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from nexus_tasks.comparison import baselines, gate, naming
from nexus_tasks.core.errors import EndpointError, NexusError, UsageError, command_line
from nexus_tasks.fleet import inventory, targets
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.fleet.targets import Target
from nexus_tasks.load.requests import Limits, Stage
from nexus_tasks.measurement import measure, progress, raw
from nexus_tasks.measurement.measure import DEFAULT_PRESET, PRESETS, Plan, Sweep
from nexus_tasks.records import store
from nexus_tasks.servers import endpoint, scrape
from nexus_tasks.stats import slo, stopping
from nexus_tasks.workloads import prompt_file, workload  # fmt: skip
from nexus_tasks.workloads.workload import Size, Spec

Number = TypeVar("Number", int, float)

ENGINES = ("http", "llama-bench", "llama-batched-bench")
AXES = ("concurrency", "rate")
MOST = {"concurrency": 256.0, "rate": 1024.0}
FIRST = {"concurrency": 1.0, "rate": 0.5}
SECONDS = 30.0
"""How long requests begin at a rate, unless told otherwise."""
UNTIL_SECONDS = 600.0
"""How long --until may take, unless told otherwise."""
ROUNDS = 10
"""Of an interleaved run, unless told otherwise."""


def _parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="nox -s benchmark --",
        description="Measure servers over HTTP and write run records.",
        epilog="\n".join(["presets:", *_preset_lines(), "", "docs/benchmarks.md says more, with examples."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "targets",
        metavar="TARGET",
        nargs="*",
        help="a pattern, HOST/INSTANCE, @NAME of llama_endpoints, or a base URL (http://...) whose key is in "
        f"{endpoint.API_KEY_VARIABLE} (default: all on {inventory.FLEET}, or on {inventory.HERE} while that is empty)",
    )
    made.add_argument("--model", metavar="NAME", help="the model to ask for, of a server that has several")
    _what(made.add_argument_group("what is asked"))
    _how(made.add_argument_group("how it is asked"))
    _when(made.add_argument_group("when it is enough, and when it failed"))
    _afterwards(made.add_argument_group("what becomes of it"))
    return made


def _what(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset", metavar="NAME", default=DEFAULT_PRESET, help="the workload, see below (default: %(default)s)"
    )
    sizes = "512, 2k, uniform:100-900 or lognormal:512,0.5 (mean, sigma)"
    group.add_argument("--prompt-tokens", metavar="SIZE", help=f"tokens of each prompt: {sizes}")
    group.add_argument("--output-tokens", metavar="SIZE", help="tokens to generate, likewise")
    group.add_argument(
        "--api", choices=workload.APIS[:2], help="how (default: completion of llama-server, chat of others)"
    )
    group.add_argument(
        "--same-prompt", action="store_true", help="one prompt again and again, so that the prefix cache shows"
    )
    group.add_argument("--prefix-tokens", type=int, metavar="N", help="tokens that all prompts begin with")
    group.add_argument("--turns", type=int, metavar="N", help="conversations of N turns, each with all before it")
    group.add_argument(
        "--prompts-file",
        type=Path,
        metavar="FILE",
        help="prompts or conversations: .jsonl, .csv, .txt, ShareGPT's .json",
    )
    group.add_argument(
        "--lengths",
        metavar="N,N,...",
        help="prompts of these lengths, a stage each; 100..32k doubles from one to the other",
    )
    group.add_argument("--embeddings", action="store_true", help="ask for embeddings of the prompts")
    group.add_argument("--rerank", type=int, metavar="N", help="have N documents ranked in each request")
    group.add_argument(
        "--seed", type=int, metavar="N", help="draw the same prompts, lengths and arrivals as another run"
    )


def _how(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--concurrency", metavar="N,N,...", help="requests in flight; several numbers are stages (default: 1)"
    )
    group.add_argument("--rate", metavar="N,N,...", help="requests that begin per second, whether others ended or not")
    group.add_argument("--poisson", action="store_true", help="with --rate: at random moments, not at equal distances")
    group.add_argument("--burst", type=int, metavar="N", help="with --rate: N at a time")
    group.add_argument(
        "--sweep",
        nargs="?",
        const="concurrency",
        choices=AXES,
        help="find the %(choices)s at which throughput stops growing",
    )
    group.add_argument("--most", type=float, metavar="N", help="the highest level of a sweep")
    group.add_argument("--requests", type=int, metavar="N", help="requests that count, of each stage")
    group.add_argument(
        "--duration", type=float, metavar="S", help="seconds in which requests begin, instead of a number"
    )
    group.add_argument("--warmup", type=int, metavar="N", help="requests before them that don't count")
    group.add_argument("--ramp", type=float, default=0.0, metavar="S", help="grow to the full load over S seconds")
    group.add_argument(
        "--interleave",
        nargs="?",
        type=int,
        const=ROUNDS,
        metavar="ROUNDS",
        help="measure two targets in turn, so that drift is the same for both (without a value: %(const)s rounds)",
    )
    group.add_argument(
        "--processes", type=int, metavar="N", help="that make the load (default: 1; more where there are more cores)"
    )
    group.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0], help="http, or llama.cpp's own tools on the host itself"
    )
    group.add_argument(
        "--stop-server",
        action="store_true",
        help="with llama.cpp's tools: stop the server meanwhile, and start it again",
    )


def _when(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--until",
        metavar="[METRIC:]ci=P%",
        help="end a stage when the median is known to P per cent, such as decode_tps:ci=2%%",
    )
    group.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="NAME=MS",
        help="what a good request keeps: ttft_ms=500, itl_p95_ms=50",
    )
    group.add_argument(
        "--max-error-rate", type=float, metavar="SHARE", help="stop when more requests fail (0 to 1; default: never)"
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=Limits().token_s,
        metavar="S",
        help="longest silence of a server within a request (default: %(default)g)",
    )
    group.add_argument("--request-timeout", type=float, metavar="S", help="longest request (default: none)")


def _afterwards(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tag", metavar="TEXT", help="a name for the run, to be compared by")
    group.add_argument("--keep-answers", action="store_true", help="keep in the record what was asked and answered")
    group.add_argument("--save-baseline", metavar="NAME", help="what later runs are held against")
    group.add_argument("--against", metavar="NAME", help="compare with a baseline, a tag or a run; 3 when it is worse")
    group.add_argument("--json", action="store_true", help="print the summaries as JSON and nothing else")
    group.add_argument(
        "--results", type=Path, default=store.ROOT, metavar="DIR", help="where the records go (default: %(default)s)"
    )


def _preset_lines() -> list[str]:
    width = max(map(len, PRESETS))
    lines = []
    for name, plan in PRESETS.items():
        spec, [stage] = plan.spec, plan.stages
        sizes = f"{spec.prompt_tokens!s:>4} prompt + {spec.output_tokens!s:>3} output tokens"
        lines.append(f"  {name:<{width}}  {sizes}, {stage.requests} requests + {stage.warmup} warm-up")
    return lines


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for.

    Raises:
        UsageError: options that exclude each other, or a value that makes no sense.
    """
    if options.tag is not None:
        naming.check_name(options.tag, "a tag")
    base = measure.preset(options.preset)
    spec = _spec(options, base.spec)
    stages, axis, swept = _stages(options, base.stages[0], spec)
    for stage in stages:
        _check(stage)
    plan = Plan(
        spec=spec if stages == base.stages else dataclasses.replace(spec, preset=None),
        stages=stages,
        axis=axis,
        sweep=swept,
        limits=_limits(options),
        slo=slo.limits(options.slo),
        until=stopping.parse(options.until) if options.until else None,
        processes=options.processes,
        rounds=options.interleave or 1,
        tag=options.tag,
    )
    for name, value in (("--processes", plan.processes), ("--interleave", options.interleave)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is too few", hint="at least 1")
    if options.interleave and swept:
        raise UsageError("--interleave and --sweep exclude each other", hint="sweep each target by itself")
    return plan


def _spec(options: argparse.Namespace, base: Spec) -> Spec:
    one_of = {
        "--prompts-file": options.prompts_file,
        "--lengths": options.lengths,
        "--embeddings": options.embeddings,
        "--rerank": options.rerank,
    }
    _at_most_one(one_of)
    for name in ("--turns", "--prefix-tokens"):
        _at_most_one({name: _given(options, name), **one_of})
    for name, others in (
        ("--prompt-tokens", ("--lengths", "--prompts-file")),
        ("--output-tokens", ("--embeddings", "--rerank")),
    ):
        _at_most_one({name: _given(options, name), **{other: one_of[other] for other in others}})
    changed = dataclasses.replace(
        base,
        prompt_tokens=workload.size(options.prompt_tokens) if options.prompt_tokens else base.prompt_tokens,
        output_tokens=workload.size(options.output_tokens, "--output-tokens")
        if options.output_tokens
        else base.output_tokens,
        api=options.api,
        prompts="same" if options.same_prompt else "unique",
        turns=1 if options.turns is None else options.turns,
        prefix_tokens=options.prefix_tokens or 0,
        seed=options.seed,
    )
    if options.prompts_file:
        file = prompt_file.read(options.prompts_file)
        # Answers of a file's prompts are as long as the file, or the option, or the model says.
        output = changed.output_tokens if options.output_tokens else None
        talks = any(len(entry.turns) > 1 for entry in file.entries)
        changed = dataclasses.replace(
            changed,
            kind="conversations" if talks else "file",
            file=file,
            prompt_tokens=None,
            output_tokens=output,
            ignore_eos=False,
        )
    elif options.lengths:
        changed = dataclasses.replace(
            changed, kind="context", lengths=workload.ladder(options.lengths), prompt_tokens=None
        )
    elif options.embeddings:
        changed = dataclasses.replace(changed, kind="embeddings", output_tokens=None)
    elif options.rerank is not None:
        changed = dataclasses.replace(changed, kind="rerank", documents=options.rerank, output_tokens=None)
    elif options.turns is not None:
        changed = dataclasses.replace(changed, kind="conversations")
    elif options.prefix_tokens is not None:
        changed = dataclasses.replace(changed, kind="shared-prefix")
    # It keeps the preset's name only while it is the preset.
    same = dataclasses.replace(changed, api=base.api, seed=base.seed) == base
    return changed if same else dataclasses.replace(changed, preset=None)


def _stages(options: argparse.Namespace, base: Stage, spec: Spec) -> tuple[tuple[Stage, ...], str | None, Sweep | None]:
    _at_most_one({"--concurrency": options.concurrency, "--rate": options.rate, "--sweep": options.sweep})
    _at_most_one({"--poisson": options.poisson, "--burst": options.burst})
    _at_most_one({"--requests": options.requests, "--duration": options.duration})
    by_rate = bool(options.rate) or options.sweep == "rate"
    for name, value in (("--poisson", options.poisson), ("--burst", options.burst)):
        if value and not by_rate:
            raise UsageError(f"{name} needs a rate", hint="give --rate requests per second, or --sweep rate")
    if options.most is not None and not options.sweep:
        raise UsageError("--most is for sweeps", hint="add --sweep")
    if options.most is not None and options.most < FIRST[options.sweep]:
        raise UsageError(f"--most {options.most:g} is too few", hint=f"at least {FIRST[options.sweep]:g}")
    mode = "closed" if not by_rate else "poisson" if options.poisson else "burst" if options.burst else "constant"
    pattern = Stage(
        mode, burst=options.burst, requests=options.requests, duration_s=options.duration, ramp_s=options.ramp,
        warmup=base.warmup if options.warmup is None else options.warmup, seed=options.seed or 0,
    )  # fmt: skip
    if options.until and not (options.requests or options.duration):
        pattern = dataclasses.replace(pattern, duration_s=UNTIL_SECONDS)
    if options.sweep and spec.lengths:
        raise UsageError("--sweep and --lengths exclude each other", hint="sweep one length, with --prompt-tokens")
    if options.sweep:
        axis = "rate_per_s" if by_rate else "concurrency"
        if by_rate and not (pattern.requests or pattern.duration_s):
            pattern = dataclasses.replace(pattern, duration_s=SECONDS)
        way = Sweep(axis, FIRST[options.sweep], options.most or MOST[options.sweep])
        first = {"rate_per_s": way.first} if by_rate else {"concurrency": int(way.first)}
        return (dataclasses.replace(pattern, **first),), axis, way
    if by_rate:
        if not (pattern.requests or pattern.duration_s):
            pattern = dataclasses.replace(pattern, duration_s=SECONDS)
        rates = _numbers(options.rate, "--rate", float)
        stages = tuple(dataclasses.replace(pattern, rate_per_s=rate) for rate in rates)
        axis = "rate_per_s"
    else:
        users = _numbers(options.concurrency, "--concurrency", int) if options.concurrency else [1]
        stages = tuple(_closed(pattern, number, base, given=options.warmup is not None) for number in users)
        axis = "concurrency"
    if spec.lengths:
        if len(stages) > 1:
            raise UsageError("--lengths are one stage each", hint="give one --concurrency or --rate with them")
        return stages * len(spec.lengths), "prompt_tokens", None
    return stages, axis if len(stages) > 1 else None, None


def _closed(pattern: Stage, users: int, base: Stage, *, given: bool) -> Stage:
    requests = pattern.requests
    if requests is None and pattern.duration_s is None:
        requests = (base.requests or 1) * users
    # The first wave finds the server empty: it doesn't count.
    warmup = pattern.warmup if given or users == 1 else max(pattern.warmup, users)
    return dataclasses.replace(pattern, concurrency=users, requests=requests, warmup=warmup)


def _check(stage: Stage) -> None:
    for name, value, least in (
        ("--concurrency", stage.concurrency, 1),
        ("--requests", stage.requests, 1),
        ("--warmup", stage.warmup, 0),
        ("--burst", stage.burst, 1),
    ):
        if value is not None and value < least:
            raise UsageError(f"{name} {value} is too few", hint=f"at least {least}")
    for name, number in (("--rate", stage.rate_per_s), ("--duration", stage.duration_s)):
        if number is not None and number <= 0:
            raise UsageError(f"{name} {number:g} is too little", hint="more than 0")
    if stage.ramp_s < 0:
        raise UsageError(f"--ramp {stage.ramp_s:g} is before the beginning", hint="give seconds from 0 on")


def _limits(options: argparse.Namespace) -> Limits:
    for name, value in (("--timeout", options.timeout), ("--request-timeout", options.request_timeout)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} {value:g} leaves no time", hint="give seconds above 0")
    rate = options.max_error_rate
    if rate is not None and not 0 <= rate <= 1:
        raise UsageError(f"--max-error-rate {rate:g} is no share", hint="give a number from 0 to 1")
    return Limits(
        token_s=options.timeout,
        request_s=options.request_timeout,
        max_error_rate=rate,
        keep_answers=options.keep_answers,
    )


def _given(options: argparse.Namespace, name: str) -> Any:
    """What an option was given, by its name on the command line."""
    return vars(options)[name.removeprefix("--").replace("-", "_")]


def _at_most_one(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", hint="leave one of them out")


def _numbers(text: str, option: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text}: these are not numbers", hint=f"write them like {option} 1,4,16") from None


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the targets: 0 when all went well, 1 when anything failed, and what compare says with --against."""
    options = _parser().parse_args(argv)
    plan = plan_of(options)
    console = Console(stderr=True) if options.json else Console()
    found = targets.find(options.targets)
    if options.model:
        found = [dataclasses.replace(target, model=options.model) for target in found]
    _check_targets(options, found)
    paths, errors = _measure(options, plan, found, console)
    records = [store.load(path) for path in paths]
    if options.json:
        sys.stdout.write(json.dumps([_as_json(record) for record in records], indent=2) + "\n")
    else:
        for record in records:
            progress.print_summary(record, console)
    if options.save_baseline and records:
        baselines.save(options.save_baseline, records, options.results)
    if errors:
        raise EndpointError("; ".join(error.message for error in errors), hint=errors[0].hint)
    good = all(record.summary and record.summary["ok"] and record.summary["valid"] for record in records)
    if options.against and good:
        return gate.against(options.against, records, root=options.results, console=console)
    return 0 if good else 1


def _check_targets(options: argparse.Namespace, found: Sequence[Target]) -> None:
    if options.engine != "http":
        _check_raw(options, found)
    if options.interleave and len(found) != 2:
        names = ", ".join(target.name for target in found)
        raise UsageError(f"--interleave is for two targets, not {len(found)}: {names}", hint="name the two of them")
    if options.save_baseline and len(found) > 1:
        raise UsageError("--save-baseline is for one target", hint="name one, or save each with nox -s compare")
    if options.stop_server and options.engine == "http":
        raise UsageError("--stop-server leaves nothing to measure", hint="it is for --engine llama-bench")


NOT_RAW = (
    "--interleave", "--warmup", "--ramp", "--rate", "--sweep", "--api", "--same-prompt", "--keep-answers", "--slo",
    "--until", "--duration", "--max-error-rate", "--request-timeout", "--processes", "--seed", "--model",
)  # fmt: skip


def _check_raw(options: argparse.Namespace, found: Sequence[Target]) -> None:
    if any(target.instance is None and not target.lost for target in found):
        raise UsageError(f"{options.engine} runs on hosts of the inventory only", hint="name HOST/INSTANCE")
    for name in NOT_RAW:
        if _given(options, name):
            hint = "it has --prompt-tokens, --output-tokens, --requests and --concurrency"
            raise UsageError(f"{options.engine} has no {name}", hint=hint)


def _measure(
    options: argparse.Namespace, plan: Plan, found: Sequence[Target], console: Console
) -> tuple[list[Path], list[NexusError]]:
    exporters = _exporters(found)
    if options.interleave:
        return measure.run_interleaved(found, plan, exporters=exporters, root=options.results, console=console), []
    paths: list[Path] = []
    errors: list[NexusError] = []
    for target in found:
        try:
            target.must_be_there()
            if options.engine == "http":
                path = measure.run(target, plan, exporters=exporters, root=options.results, console=console)
                paths.append(path)
            else:
                paths.append(_raw(options, plan, target, console))
        except (EndpointError, UsageError) as error:  # the others may well be up, and have room for it
            errors.append(error)
    return paths, errors


def _exporters(found: Sequence[Target]) -> dict[str, scrape.Exporter]:
    """Those of the hosts that are not this machine, which tells of itself."""
    hosts = dict.fromkeys(target.instance.host for target in found if target.instance and not target.instance.here)
    return scrape.exporters(",".join(hosts)) if hosts else {}


def _raw(options: argparse.Namespace, plan: Plan, target: Target, console: Console) -> Path:
    """Measure with a tool of llama.cpp, what it has of the plan."""
    users = [stage.concurrency for stage in plan.stages if stage.concurrency]
    spec = plan.spec
    match (target.instance, spec.kind, spec.prompt_tokens, spec.output_tokens):
        case (Instance() as instance, "synthetic", Size(kind="fixed") as prompt, Size(kind="fixed") as output):
            repetitions = options.requests or measure.preset(options.preset).requests
            return raw.run(
                instance, options.engine, prompt.max, output.max, repetitions, users, root=options.results,
                console=console, tag=plan.tag, stop_server=options.stop_server,
            )  # fmt: skip
        case _:
            hint = "give --prompt-tokens and --output-tokens a number each"
            raise UsageError(f"{options.engine} measures prompts and answers of fixed lengths only", hint=hint)


def _as_json(record: store.Record) -> dict[str, Any]:
    return {
        "target": record.header["target"],
        "run_id": record.run_id,
        "record": str(record.path),
        "stages": [{key: value for key, value in row.items() if key != "type"} for row in record.stages],
        **{key: value for key, value in (record.summary or {}).items() if key != "type"},
    }


if __name__ == "__main__":
    sys.exit(main())
