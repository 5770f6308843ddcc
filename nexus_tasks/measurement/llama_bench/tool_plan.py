"""Plans of llama.cpp's own tools: the command lines of a run.

    tool_plan.plan_for(instance, "llama-bench", 512, 256, 5, [1]).commands

The tools are those of the instance's release. They load the same file with the same settings as far as they have them;
what they lack is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_tasks.core.errors import UsageError
from nexus_tasks.fleet.inventory import Instance
from nexus_tasks.measurement.llama_bench import settings
from nexus_tasks.measurement.llama_bench.settings import Setting, Words
from nexus_tasks.measurement.plan import Plan
from nexus_tasks.workloads.sizes import Size

BENCH, BATCHED = "llama-bench", "llama-batched-bench"
ENGINES = (BENCH, BATCHED)
MAX_SEQUENCES = 256  # LLAMA_MAX_SEQ
CACHE_PAD = 256  # tokens; llama.cpp rounds the context of a sequence up to it


@dataclass(frozen=True)
class ToolPlan:
    """The command lines of a run, what people should know of them, and what is measured."""

    engine: str
    commands: tuple[tuple[str, ...], ...]
    warnings: tuple[str, ...]
    prompt_tokens: int
    output_tokens: int
    repetitions: int
    concurrencies: tuple[int, ...]


def plan_for(
    instance: Instance,
    engine: str,
    prompt_tokens: int,
    output_tokens: int,
    repetitions: int,
    concurrencies: Sequence[int],
) -> ToolPlan:
    """The plan of a tool for an instance.

    llama-bench runs twice: prompts with nothing before them, then generation after such a prompt, as a server does it.
    llama-batched-bench repeats each concurrency by itself, after one time that doesn't count.

    Raises:
        UsageError: the engine does not exist or can't measure this.
    """
    _check_amounts(engine, prompt_tokens, output_tokens, repetitions, concurrencies)
    given = settings.parse(instance.argv)
    options = {setting.option: setting.value for setting in given}
    if instance.model is None or not (model := _model(given)):
        raise UsageError(
            f"{engine} needs an instance with one model; {instance.target} is a router", hint="measure another one"
        )
    if {"embeddings", "reranking"} & options.keys():
        raise UsageError(
            f"{instance.target} generates no text, and {engine} measures nothing else", hint="measure it over HTTP"
        )
    if engine == BENCH and "," in model:
        raise UsageError(f"llama-bench takes {model} for two files", hint="llama-batched-bench can read it")
    words, lacking = settings.bench_words(given) if engine == BENCH else settings.batched_words(given)
    base = [str(Path(instance.release["path"]) / "bin" / engine), "-m", model, *words]
    if engine == BENCH:
        one, several = options.get("threads"), options.get("threads_batch")
        base += ["-r", str(repetitions), "-o", "jsonl", "--progress"]
        commands = [
            [*base, *_threads(several or one), "-p", str(prompt_tokens), "-n", "0"],
            [*base, *_threads(one), "-p", "0", "-n", str(output_tokens), "-d", str(prompt_tokens)],
        ]
    else:
        sequence = -(-(prompt_tokens + output_tokens) // CACHE_PAD) * CACHE_PAD
        # One more at the end, which is not read: the tool may end before the thread that prints its last line has.
        levels = ",".join([*(str(level) for level in concurrencies for _ in range(repetitions + 1)), "1"])
        sizes = ["-c", str(sequence * max(concurrencies)), "-npp", str(prompt_tokens), "-ntg", str(output_tokens)]
        commands = [[*base, *sizes, "-npl", levels, "--output-format", "jsonl"]]
    return ToolPlan(
        engine, tuple(map(tuple, commands)), tuple(_warnings(instance, engine, options, lacking)), prompt_tokens,
        output_tokens, repetitions, tuple(concurrencies),
    )  # fmt: skip


def _check_amounts(
    engine: str, prompt_tokens: int, output_tokens: int, repetitions: int, concurrencies: Sequence[int]
) -> None:
    if engine not in ENGINES:
        raise UsageError(f"there is no engine {engine!r}", hint=f"the engines are http, {', '.join(ENGINES)}")
    amounts = {"prompt-tokens": prompt_tokens, "output-tokens": output_tokens, "runs": repetitions}
    for name, amount in amounts.items():
        if amount < 1:
            raise UsageError(f"--{name} must be 1 or more, not {amount}", hint="see nox -s benchmark -- --help")
    if engine == BENCH and list(concurrencies) != [1]:
        raise UsageError(
            "--engine llama-bench needs a concurrency of 1", hint="take --engine llama-batched-bench for others"
        )
    if not concurrencies or min(concurrencies) < 1 or max(concurrencies) > MAX_SEQUENCES:
        given = ", ".join(map(str, concurrencies)) or "nothing"
        raise UsageError(
            f"each concurrency must be from 1 to {MAX_SEQUENCES}, not {given}",
            hint=f"give {BATCHED} others with --concurrency",
        )


def _warnings(
    instance: Instance, engine: str, options: Mapping[str, str | None], lacking: Sequence[str]
) -> Iterator[str]:
    """Warnings where what the tool measures differs from what the server does."""
    if lacking:
        yield f"{engine} has no equal for {', '.join(lacking)}: it measures {instance.target} without"
    fits = instance.release.get("backend") == "cuda" and options.get("fit") != "off"
    if fits and options.get("n_gpu_layers") in (None, "auto"):
        yield f"{instance.target} may have moved layers to fit the GPU, and {engine} does not: set n_gpu_layers"


def from_plan(instance: Instance, engine: str, plan: Plan, repetitions: int) -> ToolPlan:
    """The plan of a tool for an instance, of a plan that was made for servers.

    Raises:
        UsageError: as :func:`plan_for` does, or lengths are drawn.
    """
    concurrencies = [stage.concurrency for stage in plan.stages if stage.concurrency]
    match (plan.spec.kind, plan.spec.prompt_tokens, plan.spec.output_tokens):
        case ("synthetic", Size(kind="fixed") as prompt, Size(kind="fixed") as output):
            return plan_for(instance, engine, prompt.max, output.max, repetitions, concurrencies)
        case _:
            hint = "give --prompt-tokens and --output-tokens a number each"
            raise UsageError(f"--engine {engine} needs prompts and answers of fixed lengths", hint=hint)


def _model(given: Sequence[Setting]) -> str | None:
    """The file that is served; the last one given counts, as for every flag."""
    return next((setting.value for setting in reversed(given) if setting.flag in ("--model", "-m")), None)


def _threads(value: str | None) -> Words:
    """llama-bench knows no -1, which is as many as it takes by itself."""
    return ["-t", value] if value and not value.startswith("-") else []
