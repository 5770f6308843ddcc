"""Plan that the options of a command line ask for, or a :class:`UsageError` that says which of them don't go together.

    from_options.plan(parser.parse_args(argv))

The options are those of options.py.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from nexus_tasks.core.errors import UsageError
from nexus_tasks.core.numbers import number, whole
from nexus_tasks.load.requests import Limits, Stage
from nexus_tasks.measurement import presets
from nexus_tasks.measurement.plan import Plan, Sweep
from nexus_tasks.stats import slo, stopping
from nexus_tasks.workloads import prompt_file, sizes
from nexus_tasks.workloads.workload import Spec

Number = TypeVar("Number", int, float)

MAX_LEVEL = {"concurrency": 256.0, "rate": 1024.0}
FIRST_LEVEL = {"concurrency": 1.0, "rate": 0.5}
SECONDS = 30.0
"""Time in which requests begin at a rate, unless told otherwise."""
UNTIL_SECONDS = 600.0
"""Longest time of a stage with --until, unless told otherwise."""
MAX_AT_ONCE = 65535
MAX_PROCESSES = 256
_HELP = "see nox -s benchmark -- --help"
NOT_OF_TOOLS = (
    "--interleave", "--warmup", "--ramp", "--rate", "--sweep", "--api", "--same-prompt", "--keep-answers", "--slo",
    "--until", "--duration", "--max-error-rate", "--request-timeout", "--processes", "--seed", "--model",
)  # fmt: skip
"""Options that llama.cpp's own tools have no equal for."""


def plan(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for.

    Raises:
        UsageError: options that exclude each other, or a value that makes no sense.
    """
    base = presets.preset(options.preset)
    spec = _spec(options, base.spec)
    stages, axis, swept = _stages(options, base.stages[0], spec)
    for stage in stages:
        _check(stage)
    asked = Plan(
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
    for name, value in (("--processes", asked.processes), ("--interleave", options.interleave)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be 1 or more, not {value}", hint=_HELP)
    if asked.processes is not None and asked.processes > MAX_PROCESSES:
        raise UsageError(f"--processes must be at most {MAX_PROCESSES}, not {asked.processes}", hint=_HELP)
    if options.interleave and swept:
        raise UsageError("--interleave and --sweep exclude each other", hint="sweep each target by itself")
    return asked


def refuse_for_tools(options: argparse.Namespace) -> None:
    """Refuse what llama.cpp's own tools can't do.

    Raises:
        UsageError: an option of NOT_OF_TOOLS is given.
    """
    for name in NOT_OF_TOOLS:
        if _value(options, name):
            hint = "it has --prompt-tokens, --output-tokens, --requests and --concurrency"
            raise UsageError(f"{name} needs --engine http; {options.engine} has no equal", hint=hint)


def _spec(options: argparse.Namespace, base: Spec) -> Spec:
    one_of = {
        "--prompts-file": options.prompts_file,
        "--lengths": options.lengths,
        "--embeddings": options.embeddings,
        "--rerank": options.rerank,
    }
    _at_most_one(one_of)
    for name in ("--turns", "--prefix-tokens"):
        _at_most_one({name: _value(options, name), **one_of})
    for name, others in (
        ("--prompt-tokens", ("--lengths", "--prompts-file")),
        ("--output-tokens", ("--embeddings", "--rerank")),
    ):
        _at_most_one({name: _value(options, name), **{other: one_of[other] for other in others}})
    changed = dataclasses.replace(
        base,
        prompt_tokens=sizes.parse(options.prompt_tokens) if options.prompt_tokens else base.prompt_tokens,
        output_tokens=sizes.parse(options.output_tokens, "--output-tokens")
        if options.output_tokens
        else base.output_tokens,
        api=options.api,
        prompts="same" if options.same_prompt else "unique",
        turns=1 if options.turns is None else options.turns,
        prefix_tokens=options.prefix_tokens or 0,
        seed=options.seed,
    )
    changed = _of_kind(options, changed)
    # It keeps the preset's name only while it is the preset.
    same = dataclasses.replace(changed, api=base.api, seed=base.seed) == base
    return changed if same else dataclasses.replace(changed, preset=None)


def _of_kind(options: argparse.Namespace, spec: Spec) -> Spec:
    """The workload of the kind that the options ask for."""
    if options.prompts_file:
        file = prompt_file.read(options.prompts_file)
        # Answers of a file's prompts are as long as the file, or the option, or the model says.
        output = spec.output_tokens if options.output_tokens else None
        talks = any(len(entry.turns) > 1 for entry in file.entries)
        return dataclasses.replace(
            spec,
            kind="conversations" if talks else "file",
            file=file,
            prompt_tokens=None,
            output_tokens=output,
            ignore_eos=False,
        )
    if options.lengths:
        return dataclasses.replace(
            spec, kind="context", lengths=sizes.parse_ladder(options.lengths), prompt_tokens=None
        )
    if options.embeddings:
        return dataclasses.replace(spec, kind="embeddings", output_tokens=None)
    if options.rerank is not None:
        return dataclasses.replace(spec, kind="rerank", documents=options.rerank, output_tokens=None)
    if options.turns is not None:
        return dataclasses.replace(spec, kind="conversations")
    if options.prefix_tokens is not None:
        return dataclasses.replace(spec, kind="shared-prefix")
    return spec


def _stages(options: argparse.Namespace, base: Stage, spec: Spec) -> tuple[tuple[Stage, ...], str | None, Sweep | None]:
    """The stages, what differs between them, and the sweep that they are found by."""
    by_rate = bool(options.rate) or options.sweep == "rate"
    _check_load(options, by_rate=by_rate)
    pattern = _pattern(options, base, by_rate=by_rate)
    axis = "rate_per_s" if by_rate else "concurrency"
    if options.sweep and spec.lengths:
        raise UsageError("--sweep and --lengths exclude each other", hint="sweep one length, with --prompt-tokens")
    if options.sweep:
        way = Sweep(axis, FIRST_LEVEL[options.sweep], options.most or MAX_LEVEL[options.sweep])
        first = {"rate_per_s": way.first} if by_rate else {"concurrency": int(way.first)}
        return (dataclasses.replace(pattern, **first),), axis, way
    if by_rate:
        rates = _numbers(options.rate, "--rate", number)
        stages = tuple(dataclasses.replace(pattern, rate_per_s=rate) for rate in rates)
    else:
        users = _numbers(options.concurrency, "--concurrency", whole) if options.concurrency else [1]
        stages = tuple(_closed(pattern, number, base, given=options.warmup is not None) for number in users)
    if spec.lengths:
        if len(stages) > 1:
            raise UsageError(
                "--lengths needs one --concurrency or --rate: each length is a level of load", hint="give one of them"
            )
        return stages * len(spec.lengths), "prompt_tokens", None
    return stages, axis if len(stages) > 1 else None, None


def _check_load(options: argparse.Namespace, *, by_rate: bool) -> None:
    _at_most_one({"--concurrency": options.concurrency, "--rate": options.rate, "--sweep": options.sweep})
    _at_most_one({"--poisson": options.poisson, "--burst": options.burst})
    _at_most_one({"--requests": options.requests, "--duration": options.duration})
    for name, value in (("--poisson", options.poisson), ("--burst", options.burst)):
        if value and not by_rate:
            raise UsageError(f"{name} needs --rate or --sweep rate", hint="give --rate in requests per second")
    if options.most is not None and not options.sweep:
        raise UsageError("--most needs --sweep", hint="add --sweep")
    if options.most is not None and options.sweep == "concurrency" and options.most > MAX_AT_ONCE:
        raise UsageError(f"--most must be at most {MAX_AT_ONCE}, not {options.most:g}", hint=_HELP)
    if options.most is not None and options.most < FIRST_LEVEL[options.sweep]:
        least = f"{FIRST_LEVEL[options.sweep]:g}"
        raise UsageError(f"--most must be {least} or more, not {options.most:g}", hint="a sweep begins there")


def _pattern(options: argparse.Namespace, base: Stage, *, by_rate: bool) -> Stage:
    """The stage that all are like, but for their level."""
    arrivals = "poisson" if options.poisson else "burst" if options.burst else "constant"
    duration_s = options.duration
    if not (options.requests or duration_s):
        if options.until:
            duration_s = UNTIL_SECONDS
        elif by_rate:
            duration_s = SECONDS
    return Stage(
        arrivals if by_rate else "closed", burst=options.burst, requests=options.requests,
        duration_s=duration_s, ramp_s=options.ramp,
        warmup=base.warmup if options.warmup is None else options.warmup, seed=options.seed or 0,
    )  # fmt: skip


def _closed(pattern: Stage, users: int, base: Stage, *, given: bool) -> Stage:
    requests = pattern.requests
    if requests is None and pattern.duration_s is None:
        requests = (base.requests or 1) * users
    # The first wave finds the server empty: it doesn't count.
    warmup = pattern.warmup if given or users == 1 else max(pattern.warmup, users)
    return dataclasses.replace(pattern, concurrency=users, requests=requests, warmup=warmup)


def _check(stage: Stage) -> None:
    for name, value, minimum in (
        ("--concurrency", stage.concurrency, 1),
        ("--requests", stage.requests, 1),
        ("--warmup", stage.warmup, 0),
        ("--burst", stage.burst, 1),
    ):
        if value is not None and value < minimum:
            raise UsageError(f"{name} must be {minimum} or more, not {value}", hint=_HELP)
    for name, value in (("--concurrency", stage.concurrency), ("--burst", stage.burst)):
        if value is not None and value > MAX_AT_ONCE:
            raise UsageError(f"{name} must be at most {MAX_AT_ONCE}, not {value}", hint="one address has no more ports")
    for name, size in (("--rate", stage.rate_per_s), ("--duration", stage.duration_s)):
        if size is not None and size <= 0:
            raise UsageError(f"{name} must be more than 0, not {size:g}", hint=_HELP)
    if stage.ramp_s < 0:
        raise UsageError(f"--ramp must be 0 or more, not {stage.ramp_s:g}", hint="give it in seconds")


def _limits(options: argparse.Namespace) -> Limits:
    for name, value in (("--timeout", options.timeout), ("--request-timeout", options.request_timeout)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} must be more than 0, not {value:g}", hint="give it in seconds")
    rate = options.max_error_rate
    if rate is not None and not 0 <= rate <= 1:
        raise UsageError(f"--max-error-rate must be from 0 to 1, not {rate:g}", hint="0.05 is one request in twenty")
    return Limits(
        token_s=options.timeout,
        request_s=options.request_timeout,
        max_error_rate=rate,
        keep_answers=options.keep_answers,
    )


def _value(options: argparse.Namespace, name: str) -> Any:
    """The value of an option, by its name on the command line."""
    return vars(options)[name.removeprefix("--").replace("-", "_")]


def _at_most_one(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other", hint="leave one of them out")


def _numbers(text: str, option: str, kind: Callable[[str], Number]) -> list[Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        hint = f"write them like {option} 1,4,16"
        raise UsageError(f"{option} must be numbers, not {text}: each {error}", hint=hint) from error
