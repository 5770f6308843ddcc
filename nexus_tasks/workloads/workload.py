"""Workload: what is asked of a server. Prompts and answers of some lengths, conversations, files, embeddings, ranking.

    spec = Spec(prompt_tokens=sizes.parse("512"), output_tokens=sizes.parse("uniform:100-300"))
    spec = workload.settle(spec, server)                    # as this server will get it, or a UsageError
    source = sources.prepare(client, server, spec)          # asks the server what its tokens are
    for item in source.items(stage=0): ...                  # endless; what generator.run takes

``server`` is what :func:`endpoint.probe` says, ``client`` is connected to the same server.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import Workload
from nexus_tasks.servers import endpoint
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads.prompt_file import PromptFile
from nexus_tasks.workloads.sizes import Size

KINDS = ("synthetic", "file", "conversations", "shared-prefix", "context", "embeddings", "rerank")
APIS = ("completion", "chat", "embeddings", "rerank")
DOCUMENTS = 10
"""Documents that one request has ranked, where no other number is given."""


@dataclass(frozen=True)
class Spec:
    """A workload. Lengths in tokens.

    ``prompt_tokens`` is what a request brings that is new: all of the prompt for most kinds, what follows the
    prefix for ``shared-prefix``, a turn's message for ``conversations``, query and document together for ``rerank``.
    None for files, and for ``context``, whose ``lengths`` are one stage each.
    """

    kind: str = "synthetic"
    prompt_tokens: Size | None = None
    output_tokens: Size | None = None
    """None: as long as the server likes, which only files may ask for; or there is no output."""
    api: str | None = None
    """One of APIS; None until :func:`settle` chose what suits the server."""
    preset: str | None = None
    prompts: str = "unique"
    """``same``: one prompt for all requests, to be answered from the server's prefix cache."""
    turns: int = 1
    prefix_tokens: int = 0
    """Tokens that all prompts begin with."""
    lengths: tuple[int, ...] | None = None
    file: PromptFile | None = field(default=None, repr=False)
    documents: int | None = None
    temperature: float = 0.0
    ignore_eos: bool = True
    """Answers are exactly as long as asked. For files of real prompts their own end may be wanted."""
    seed: int | None = None

    def as_row(self) -> Workload:
        """For the header of a record, settled."""
        return Workload(
            preset=self.preset,
            kind=self.kind,
            prompt_tokens=self.prompt_tokens.as_row() if self.prompt_tokens else None,
            output_tokens=self.output_tokens.as_row() if self.output_tokens else None,
            api=self.api or "",
            prompts=self.prompts,
            turns=self.turns,
            prefix_tokens=self.prefix_tokens,
            lengths=list(self.lengths) if self.lengths else None,
            file=self.file.as_row() if self.file else None,
            documents=self.documents,
            temperature=self.temperature,
            ignore_eos=self.ignore_eos,
            seed=self.seed,
        )


def settle(spec: Spec, server: Endpoint) -> Spec:
    """The workload as this server will get it, checked.

    Raises:
        UsageError: as :func:`check` does.
    """
    llama_cpp = server.engine == endpoint.LLAMA_CPP
    if spec.kind in ("embeddings", "rerank"):
        spec = dataclasses.replace(spec, api=spec.api or spec.kind, output_tokens=None, ignore_eos=False)
        if spec.kind == "rerank" and spec.documents is None:
            spec = dataclasses.replace(spec, documents=DOCUMENTS)
    elif spec.kind in ("file", "conversations"):
        spec = dataclasses.replace(spec, api=spec.api or "chat")
    else:
        # Where the server can be told exact lengths, completions measure it best; elsewhere many have only chat.
        spec = dataclasses.replace(spec, api=spec.api or ("completion" if llama_cpp else "chat"))
    if spec.kind == "conversations" and spec.file:
        spec = dataclasses.replace(spec, turns=max(len(entry.turns) for entry in spec.file.entries))
    if not llama_cpp or spec.output_tokens is None:
        spec = dataclasses.replace(spec, ignore_eos=False)
    check(spec, server)
    return spec


def check(spec: Spec, server: Endpoint) -> None:
    """Refuse a workload that makes no sense, or whose longest request does not fit into the server's context.

    The entries of a file are counted by :func:`sources.prepare`.

    Raises:
        UsageError: with the numbers.
    """
    _check_sense(spec)
    if spec.file or server.n_ctx is None:
        return
    output = spec.output_tokens.max if spec.output_tokens else 0
    for length in prompt_lengths(spec):
        asked = spec.prefix_tokens + spec.turns * (length + output)
        if asked <= server.n_ctx:
            continue
        what = f"{length} prompt tokens"
        if output:
            what = f"{length} prompt and {output} output tokens"
        if spec.turns > 1:
            what = f"{spec.turns} turns of {what}"
        if spec.prefix_tokens:
            what = f"a prefix of {spec.prefix_tokens} and {what}"
        hint = "ask for fewer with --prompt-tokens and --output-tokens, or raise the instance's ctx_size"
        if spec.lengths:
            fitting = [str(one) for one in spec.lengths if one + output <= server.n_ctx]
            hint = f"lengths that fit: {','.join(fitting) or 'none'}; or raise the instance's ctx_size"
        raise UsageError(
            f"{what} are {asked}, more than the {server.n_ctx} of one slot of {server.base_url}", hint=hint
        )


def prompt_lengths(spec: Spec) -> tuple[int, ...]:
    """Prompt lengths that are asked for: those of the stages, or the longest and the shortest."""
    return spec.lengths or ((spec.prompt_tokens.max, spec.prompt_tokens.min) if spec.prompt_tokens else ())


def _check_sense(spec: Spec) -> None:
    def refuse(message: str, hint: str) -> None:
        raise UsageError(message, hint=hint)

    if spec.kind not in KINDS:
        refuse(f"there is no workload {spec.kind!r}", f"the workloads are {', '.join(KINDS)}")
    suitable = {"embeddings": ("embeddings",), "rerank": ("rerank",), "conversations": ("chat",)}
    apis = suitable.get(spec.kind, ("completion", "chat"))
    if spec.api not in apis:
        refuse(
            f"the workload {spec.kind} needs --api {' or '.join(apis)}, not {spec.api}", "change --api or leave it away"
        )
    if spec.kind == "file" and not spec.file:
        refuse("the workload file needs a file of prompts", "name one with --prompts-file")
    if spec.file and spec.kind not in ("file", "conversations"):
        refuse(f"the workload {spec.kind} takes no file", "leave the file away, or use the workload file")
    if spec.kind == "context" and not spec.lengths:
        refuse("the workload context needs lengths", "name them: --lengths 100..32k")
    if not spec.file and spec.kind != "context" and spec.prompt_tokens is None:
        refuse(f"the workload {spec.kind} needs a length of prompts", "give it with --prompt-tokens")
    if not spec.file and spec.kind not in ("embeddings", "rerank") and spec.output_tokens is None:
        refuse(f"the workload {spec.kind} needs a length of answers", "give it with --output-tokens")
    if spec.prompts not in ("unique", "same"):
        refuse(f"prompts must be unique or same, not {spec.prompts!r}", "choose one of both")
    if spec.prompts == "same" and spec.kind not in ("synthetic", "context"):
        refuse(f"--same-prompt needs the workload synthetic or context, not {spec.kind}", "leave --same-prompt away")
    least_turns = 2 if spec.kind == "conversations" and not spec.file else 1
    if spec.turns < least_turns or (spec.turns > 1 and spec.kind != "conversations"):
        must = f"{least_turns} or more" if spec.kind == "conversations" else "1"
        refuse(f"--turns of the workload {spec.kind} must be {must}, not {spec.turns}", "conversations have several")
    if spec.prefix_tokens < (1 if spec.kind == "shared-prefix" else 0):
        refuse(f"--prefix-tokens must be 1 or more, not {spec.prefix_tokens}", "it is the length of the shared prefix")
    if spec.prefix_tokens and (spec.file or spec.kind not in ("shared-prefix", "conversations")):
        refuse(f"--prefix-tokens needs the workload shared-prefix or conversations, not {spec.kind}", "leave it away")
    if spec.documents is not None and spec.kind != "rerank":
        refuse(f"documents need the workload rerank, not {spec.kind}", "leave the documents away")
    if spec.documents is not None and spec.documents < 1:
        refuse(f"--rerank must be 1 or more, not {spec.documents}", "it is the number of documents")
    if spec.seed is not None and spec.seed < 0:
        refuse(f"--seed must be 0 or more, not {spec.seed}", "another number makes other prompts")
    if spec.file and spec.api == "completion":
        for entry in spec.file.entries:
            if entry.text is None:
                where = f"{spec.file.path}, {entry.place}"
                refuse(f"{where}: --api completion needs a text, not a conversation", "use --api chat")


def output_limits(spec: Spec) -> Iterator[int | None]:
    """The limits of answers in tokens, without end; None is none."""
    if spec.output_tokens is None:
        return itertools.repeat(None)
    return spec.output_tokens.draws(np.random.default_rng([spec.seed or 0, 1]))
