"""Options of a plan, as a command line has them.

    options.add_to(parser)
    from_options.plan(parser.parse_args(argv))

What they come to, and which of them exclude each other, is in from_options.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nexus_tasks.core.numbers import number, whole
from nexus_tasks.load.requests import Limits
from nexus_tasks.measurement.llama_bench import tool_plan
from nexus_tasks.measurement.presets import DEFAULT_PRESET, PRESETS
from nexus_tasks.workloads import workload

ENGINES = ("http", *tool_plan.ENGINES)
AXES = ("concurrency", "rate")
ROUNDS = 10
"""Of an interleaved run, unless told otherwise."""


def add_to(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options that a plan is made of, in groups.

    Returns:
        The last group, of what becomes of a run: a command may have more to say about that.
    """
    _add_workload(parser.add_argument_group("what is asked"))
    _add_load(parser.add_argument_group("how it is asked"))
    _add_ends(parser.add_argument_group("when it is enough, and when it failed"))
    group = parser.add_argument_group("what becomes of it")
    group.add_argument("--tag", metavar="TEXT", help="a name for the run, to be compared by")
    group.add_argument("--keep-answers", action="store_true", help="keep in the record what was asked and answered")
    return group


def preset_lines() -> list[str]:
    """A line for each preset, for a command's help."""
    width = max(map(len, PRESETS))
    lines = []
    for name, plan in PRESETS.items():
        spec, [stage] = plan.spec, plan.stages
        lengths = f"{spec.prompt_tokens!s:>4} prompt + {spec.output_tokens!s:>3} output tokens"
        lines.append(f"  {name:<{width}}  {lengths}, {stage.requests} requests + {stage.warmup} warm-up")
    return lines


def _add_workload(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset", metavar="NAME", default=DEFAULT_PRESET, help="the workload, see below (default: %(default)s)"
    )
    examples = "512, 2k, uniform:100-900 or lognormal:512,0.5 (mean, sigma)"
    group.add_argument("--prompt-tokens", metavar="SIZE", help=f"tokens of each prompt: {examples}")
    group.add_argument("--output-tokens", metavar="SIZE", help="tokens to generate, likewise")
    group.add_argument(
        "--api", choices=workload.APIS[:2], help="how (default: completion of llama-server, chat of others)"
    )
    group.add_argument(
        "--same-prompt", action="store_true", help="one prompt again and again, so that the prefix cache shows"
    )
    group.add_argument("--prefix-tokens", type=whole, metavar="N", help="tokens that all prompts begin with")
    group.add_argument("--turns", type=whole, metavar="N", help="conversations of N turns, each with all before it")
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
    group.add_argument("--rerank", type=whole, metavar="N", help="have N documents ranked in each request")
    group.add_argument(
        "--seed", type=whole, metavar="N", help="draw the same prompts, lengths and arrivals as another run"
    )


def _add_load(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--concurrency",
        metavar="N,N,...",
        help="closed loop: requests in flight; several numbers are stages (default: 1)",
    )
    group.add_argument(
        "--rate", metavar="N,N,...", help="open loop: requests that begin per second, whether others ended or not"
    )
    group.add_argument("--poisson", action="store_true", help="with --rate: at random moments, not at equal distances")
    group.add_argument("--burst", type=whole, metavar="N", help="with --rate: N at a time")
    group.add_argument(
        "--sweep",
        nargs="?",
        const="concurrency",
        choices=AXES,
        help="find the level of load at saturation, where throughput stops growing",
    )
    group.add_argument("--most", type=number, metavar="N", help="the highest level of a sweep")
    group.add_argument("--requests", type=whole, metavar="N", help="requests that count, of each stage")
    group.add_argument(
        "--duration", type=number, metavar="S", help="seconds in which requests begin, instead of a number"
    )
    group.add_argument("--warmup", type=whole, metavar="N", help="requests before them that don't count")
    group.add_argument("--ramp", type=number, default=0.0, metavar="S", help="grow to the full load over S seconds")
    group.add_argument(
        "--interleave",
        nargs="?",
        type=whole,
        const=ROUNDS,
        metavar="ROUNDS",
        help="measure two targets in turn, so that drift is the same for both (without a value: %(const)s rounds)",
    )
    group.add_argument(
        "--processes", type=whole, metavar="N", help="that make the load (default: 1; more where there are more cores)"
    )
    group.add_argument(
        "--engine", choices=ENGINES, default=ENGINES[0], help="http, or llama.cpp's own tools on the host itself"
    )
    group.add_argument(
        "--stop-server",
        action="store_true",
        help="with llama.cpp's tools: stop the server meanwhile, and start it again",
    )


def _add_ends(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--until",
        metavar="[METRIC:]ci=P%",
        help="end a stage when the median's confidence interval is within P per cent, such as decode_tps:ci=2%%",
    )
    group.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="NAME=MS",
        help="what a good request keeps: ttft_ms=500, itl_p95_ms=50",
    )
    group.add_argument(
        "--max-error-rate", type=number, metavar="SHARE", help="stop when more requests fail (0 to 1; default: never)"
    )
    group.add_argument(
        "--timeout",
        type=number,
        default=Limits().token_s,
        metavar="S",
        help="longest silence of a server within a request (default: %(default)g)",
    )
    group.add_argument("--request-timeout", type=number, metavar="S", help="longest request (default: none)")
