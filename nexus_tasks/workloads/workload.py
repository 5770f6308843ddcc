"""What is asked of a server: prompts and answers of which lengths, conversations, files, embeddings, reranking.

    spec = workload.Spec(prompt_tokens=workload.size("512"), output_tokens=workload.size("uniform:100-300"))
    spec = workload.settle(spec, found)                     # as this server will get it, or a UsageError
    source = workload.prepare(client, found, spec)          # asks the server what its tokens are
    for item in source.items(stage=0): ...                  # endless; what generator.run takes

``found`` is what :func:`endpoint.probe` says, ``client`` is connected to the same server.

Items are made one by one while the server is measured, and never run dry. That costs microseconds each (see
:class:`synthetic.Stock`), so nothing has to be made ahead, and a long run needs no more memory than a short one.

The lengths of prompts and answers are drawn from the seed, or from 0 where none is given: two runs of one
workload ask for the same lengths in the same order. What the prompts say is new in every run, because servers
remember prompts; only a given seed makes it the same again.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import numpy as np

from nexus_tasks.core.errors import EndpointDown, EndpointError, UsageError
from nexus_tasks.load.requests import Item, Request
from nexus_tasks.servers import endpoint
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads import bodies, synthetic
from nexus_tasks.workloads.bodies import Form
from nexus_tasks.workloads.prompt_file import Message, PromptFile

KINDS = ("synthetic", "file", "conversations", "shared-prefix", "context", "embeddings", "rerank")
APIS = ("completion", "chat", "embeddings", "rerank")
DRAWN_AT_ONCE = 1024
LONGEST_QUANTILE = 3.0902
"""Standard deviations below which 99.9 % of a normal distribution lies."""
WIDEST_SIGMA = 3.0
DOCUMENTS = 10
"""Documents that one request has ranked, where no other number is given."""
QUERY_WORDS = 8


# --- lengths


@dataclass(frozen=True)
class Size:
    """How many tokens: ``fixed``, ``uniform`` from min to max, or ``lognormal``.

    A log-normal size has the mean ``mean`` and the standard deviation ``sigma`` of its logarithm; what is drawn
    beyond ``max`` becomes ``max``.
    """

    kind: str
    mean: float
    min: int
    max: int
    sigma: float | None = None

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """So many sizes."""
        if self.sigma is not None:
            logarithms = rng.normal(_log_median(self.mean, self.sigma), self.sigma, size=count)
            drawn = np.clip(np.rint(np.exp(logarithms)), self.min, self.max)
        else:
            drawn = rng.integers(self.min, self.max, size=count, endpoint=True)
        return [int(size) for size in drawn]

    def draws(self, rng: np.random.Generator) -> Iterator[int]:
        """Sizes without end."""
        while True:
            yield from self.draw(rng, DRAWN_AT_ONCE)

    def as_row(self) -> dict[str, Any]:
        """For the header of a record: what applies to the kind."""
        row: dict[str, Any] = {"kind": self.kind, "mean": self.mean}
        match self.kind:
            case "uniform":
                row |= {"min": self.min, "max": self.max}
            case "lognormal":
                row |= {"max": self.max, "sigma": self.sigma}
        return row

    def __str__(self) -> str:
        """As :func:`size` reads it."""
        match self.kind:
            case "fixed":
                return str(self.min)
            case "uniform":
                return f"uniform:{self.min}-{self.max}"
            case _:
                return f"lognormal:{self.mean:g},{self.sigma:g},{self.max}"


def fixed(tokens: int) -> Size:
    """Always so many tokens."""
    return Size("fixed", tokens, tokens, tokens)


def uniform(least: int, most: int) -> Size:
    """From ``least`` to ``most`` tokens, both included, each number as likely as another."""
    return Size("uniform", (least + most) / 2, least, most)


def lognormal(mean: float, sigma: float, most: int | None = None) -> Size:
    """Mostly short, sometimes long, as people's prompts are. Without ``most``, the longest of a thousand is it."""
    if most is None:
        most = math.ceil(math.exp(_log_median(mean, sigma) + LONGEST_QUANTILE * sigma))
    return Size("lognormal", mean, 1, most, sigma)


def _log_median(mean: float, sigma: float) -> float:
    return math.log(mean) - sigma**2 / 2


_SIZE_HINT = "write 512, uniform:100-900 or lognormal:512,0.5 (mean, sigma; a third number is the longest)"


def size(text: str, option: str = "--prompt-tokens") -> Size:
    """The size that an option names: ``512``, ``2k``, ``uniform:100-900``, ``lognormal:512,0.5[,4k]``.

    Raises:
        UsageError: it is none.
    """
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        return fixed(_tokens(kind, option, _SIZE_HINT))
    if kind == "uniform":
        least, dash, most = rest.partition("-")
        if not dash:
            raise UsageError(f"{option} {text}: a range is missing", hint=_SIZE_HINT)
        low, high = _tokens(least, option, _SIZE_HINT), _tokens(most, option, _SIZE_HINT)
        if low > high:
            raise UsageError(f"{option} {text}: {low} is more than {high}", hint=_SIZE_HINT)
        return uniform(low, high)
    if kind == "lognormal":
        numbers = rest.split(",")
        if len(numbers) not in (2, 3):
            raise UsageError(f"{option} {text}: mean and sigma are wanted", hint=_SIZE_HINT)
        mean = _tokens(numbers[0], option, _SIZE_HINT)
        try:
            sigma = float(numbers[1])
        except ValueError:
            sigma = math.nan
        if not 0 < sigma <= WIDEST_SIGMA:
            hint = f"a number above 0 and up to {WIDEST_SIGMA:g}; 0.5 is usual"
            raise UsageError(f"{option} {text}: sigma is {numbers[1].strip()}", hint=hint)
        most_tokens = _tokens(numbers[2], option, _SIZE_HINT) if len(numbers) == 3 else None
        if most_tokens is not None and most_tokens < mean:
            raise UsageError(f"{option} {text}: the longest is less than the mean", hint=_SIZE_HINT)
        return lognormal(mean, sigma, most_tokens)
    raise UsageError(f"{option} {text}: {kind!r} is no distribution", hint=_SIZE_HINT)


_LADDER_HINT = "write 100,1k,8k for these lengths, or 100..32k to double from one to the other (1k is 1024)"


def ladder(text: str, option: str = "--lengths") -> tuple[int, ...]:
    """The prompt lengths that an option names, in tokens: ``100,512,4k``, or ``100..32k``, which doubles.

    Raises:
        UsageError: it names none.
    """
    least, dots, most = text.partition("..")
    if not dots:
        lengths = [_tokens(part, option, _LADDER_HINT) for part in text.split(",")]
        if len(set(lengths)) < len(lengths):
            raise UsageError(f"{option} {text}: a length is named twice", hint=_LADDER_HINT)
        return tuple(lengths)
    low, high = _tokens(least, option, _LADDER_HINT), _tokens(most, option, _LADDER_HINT)
    if low >= high:
        raise UsageError(f"{option} {text}: {low} is not less than {high}", hint=_LADDER_HINT)
    doubled = itertools.takewhile(lambda length: length < high, (low * 2**step for step in itertools.count()))
    return (*doubled, high)


def _tokens(text: str, option: str, hint: str) -> int:
    found = re.fullmatch(r"(\d{1,9})(k?)", text.strip().lower())
    number = int(found[1]) * (1024 if found[2] else 1) if found else 0
    if number < 1:
        raise UsageError(f"{option}: {text.strip()!r} is no number of tokens", hint=hint)
    return number


# --- what is asked


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
    """Whether answers are exactly as long as asked. For files of real prompts their own end may be wanted."""
    seed: int | None = None

    def as_row(self) -> dict[str, Any]:
        """For the header of a record."""
        row = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return row | {
            "prompt_tokens": self.prompt_tokens.as_row() if self.prompt_tokens else None,
            "output_tokens": self.output_tokens.as_row() if self.output_tokens else None,
            "lengths": list(self.lengths) if self.lengths else None,
            "file": self.file.as_row() if self.file else None,
        }


def settle(spec: Spec, found: Endpoint) -> Spec:
    """The workload as this server will get it, checked.

    Raises:
        UsageError: as :func:`check` does.
    """
    llama_cpp = found.engine == endpoint.LLAMA_CPP
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
    check(spec, found)
    return spec


def check(spec: Spec, found: Endpoint) -> None:
    """Refuse a workload that makes no sense, or whose longest request does not fit into the server's context.

    The entries of a file are counted by :func:`prepare`.

    Raises:
        UsageError: with the numbers.
    """
    _check_sense(spec)
    if spec.file or found.n_ctx is None:
        return
    output = spec.output_tokens.max if spec.output_tokens else 0
    for length in _lengths(spec):
        asked = spec.prefix_tokens + spec.turns * (length + output)
        if asked <= found.n_ctx:
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
            fitting = [str(one) for one in spec.lengths if one + output <= found.n_ctx]
            hint = f"lengths that fit: {','.join(fitting) or 'none'}; or raise the instance's ctx_size"
        raise UsageError(f"{what} are {asked}, more than the {found.n_ctx} of one slot of {found.base_url}", hint=hint)


def _lengths(spec: Spec) -> tuple[int, ...]:
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
        refuse(f"the workload {spec.kind} can't be asked for with --api {spec.api}", f"use --api {' or '.join(apis)}")
    if spec.kind == "file" and not spec.file:
        refuse("the workload file needs a file of prompts", "name one with --prompts-file")
    if spec.file and spec.kind not in ("file", "conversations"):
        refuse(f"the workload {spec.kind} takes no file", "leave the file away, or use the workload file")
    if spec.kind == "context" and not spec.lengths:
        refuse("the workload context needs lengths", "name them: --lengths 100..32k")
    if not spec.file and spec.kind != "context" and spec.prompt_tokens is None:
        refuse("no length of prompts is given", "give it with --prompt-tokens")
    if not spec.file and spec.kind not in ("embeddings", "rerank") and spec.output_tokens is None:
        refuse("no length of answers is given", "give it with --output-tokens")
    if spec.prompts not in ("unique", "same"):
        refuse(f"prompts are unique or the same, not {spec.prompts!r}", "choose one of both")
    if spec.prompts == "same" and spec.kind not in ("synthetic", "context"):
        refuse(f"the workload {spec.kind} can't be one prompt again and again", "leave --same-prompt away")
    least_turns = 2 if spec.kind == "conversations" and not spec.file else 1
    if spec.turns < least_turns or (spec.turns > 1 and spec.kind != "conversations"):
        refuse(f"{spec.turns} turns make no {spec.kind}", "conversations have --turns 2 or more, all else has 1")
    if spec.prefix_tokens < (1 if spec.kind == "shared-prefix" else 0):
        refuse(f"a shared prefix of {spec.prefix_tokens} tokens is none", "give one with --prefix-tokens")
    if spec.prefix_tokens and (spec.file or spec.kind not in ("shared-prefix", "conversations")):
        refuse(f"the workload {spec.kind} has no shared prefix", "leave --prefix-tokens away, or use shared-prefix")
    if spec.documents is not None and (spec.kind != "rerank" or spec.documents < 1):
        refuse(f"{spec.documents} documents can't be ranked by {spec.kind}", "1 or more, with the workload rerank")
    if spec.seed is not None and spec.seed < 0:
        refuse(f"the seed {spec.seed} is negative", "give --seed a number from 0 on")
    if spec.file and spec.api == "completion":
        for entry in spec.file.entries:
            if entry.text is None:
                where = f"{spec.file.path}, line {entry.line}"
                refuse(f"{where}: --api completion takes a text, no conversation", "use --api chat")


# --- items


class Source(Protocol):
    """Where a workload's items come from; :func:`prepare` makes one."""

    @property
    def spec(self) -> Spec:
        """The workload as it is asked: what belongs into the header of a record."""
        ...

    def items(self, *, stage: int = 0, length: int | None = None) -> Iterator[Item]:
        """Items without end, alike in each stage but for what the prompts say.

        Args:
            stage: its number; the stages of one run have different prompts.
            length: prompt tokens of this stage, for ``context``.
        """
        ...


@dataclass(frozen=True)
class _Synthetic:
    """Prompts that are cut from a stock. ``exact``: the server's tokens are known, so that lengths can be promised."""

    spec: Spec
    form: Form
    stock: synthetic.Stock
    exact: bool
    overhead: synthetic.Overhead
    prefix: bytes

    def items(self, *, stage: int = 0, length: int | None = None) -> Iterator[Item]:
        spec = self.spec
        asked = spec.prompt_tokens if length is None else fixed(length)
        if asked is None:
            raise ValueError("a stage of context scaling has a length")
        lengths = asked.draws(np.random.default_rng([spec.seed or 0, 0]))
        outputs = _limits(spec)
        cut = self.stock.cutter(np.random.default_rng(None if spec.seed is None else [spec.seed, 2, stage]))
        match spec.kind:
            case "conversations":
                made = self._conversations(lengths, outputs, cut)
            case "rerank":
                made = self._rankings(lengths, cut)
            case _:
                made = self._single(lengths, outputs, cut)
        # A key says that another run asks the same again.
        return (Item(requests, None if spec.seed is None else str(index)) for index, requests in enumerate(made))

    def _single(
        self, lengths: Iterator[int], outputs: Iterator[int | None], cut: synthetic.Cut
    ) -> Iterator[tuple[Request, ...]]:
        texts: Iterator[tuple[int, bytes]] = ((length, cut(self._pieces(length))) for length in lengths)
        if self.spec.prompts == "same":
            texts = itertools.repeat(next(texts))
        for (length, text), output in zip(texts, outputs, strict=False):
            value = self._value(self.prefix + text)
            prompt = self.spec.prefix_tokens + length if self.exact else None
            yield (self.form.request(self.form.body(value, output), prompt=prompt, output=output),)

    def _conversations(
        self, lengths: Iterator[int], outputs: Iterator[int | None], cut: synthetic.Cut
    ) -> Iterator[tuple[Request, ...]]:
        while True:
            asked = list(itertools.islice(lengths, self.spec.turns))
            texts = [self.prefix + cut(self._pieces(asked[0]))]
            texts += [cut(self._pieces(length, further=True)) for length in asked[1:]]
            turns = [[bodies.message("user", b'"' + text + b'"')] for text in texts]
            first = self.spec.prefix_tokens + asked[0] if self.exact else None
            yield self.form.conversation(turns, list(itertools.islice(outputs, self.spec.turns)), first=first)

    def _rankings(self, lengths: Iterator[int], cut: synthetic.Cut) -> Iterator[tuple[Request, ...]]:
        while pairs := list(itertools.islice(lengths, self.spec.documents)):
            query = b'"' + cut(QUERY_WORDS) + b'"'
            texts = [b'"' + cut(max(1, self._pieces(length) - QUERY_WORDS)) + b'"' for length in pairs]
            body = self.form.body(query + b',"documents":[' + b",".join(texts) + b"]")
            yield (self.form.request(body, prompt=sum(pairs) if self.exact else None),)

    def _pieces(self, length: int, *, further: bool = False) -> int:
        """The pieces of the stock that make a prompt of this length."""
        if not self.exact:
            return synthetic.words_of_about(length)
        return length - (self.overhead.further if further else self.overhead.first)

    def _value(self, text: bytes) -> bytes:
        """A cut text as the JSON that is asked."""
        if self.spec.api == "chat":
            return b"[" + bodies.message("user", b'"' + text + b'"') + b"]"
        return b"[" + text + b"]" if self.stock.separator == b"," else b'"' + text + b'"'


@dataclass(frozen=True)
class _FromFile:
    """The entries of a file, in its order, again and again."""

    spec: Spec
    form: Form
    file: PromptFile

    def items(self, *, stage: int = 0, length: int | None = None) -> Iterator[Item]:
        if length is not None:
            raise ValueError(f"stage {stage} can't have a length: the file's prompts have theirs")
        outputs = _limits(self.spec)
        for entry in itertools.cycle(self.file.entries):
            if self.spec.kind == "conversations":
                turns = [[_said(message) for message in turn] for turn in entry.turns]
                limits = [entry.output_tokens or output for output in itertools.islice(outputs, len(turns))]
                requests = self.form.conversation(turns, limits)
                asked = [turn[-1].content for turn in entry.turns]
            else:
                value = b"[" + b",".join(map(_said, entry.messages)) + b"]"
                if self.spec.api == "completion":
                    value = bodies.encode(entry.text)
                output = entry.output_tokens or next(outputs)
                requests = (self.form.request(self.form.body(value, output), output=output),)
                asked = [entry.messages[-1].content]
            said = zip(requests, asked, strict=True)
            yield Item(tuple(dataclasses.replace(request, text=text) for request, text in said), entry.key)


def _limits(spec: Spec) -> Iterator[int | None]:
    """The lengths of answers, without end."""
    if spec.output_tokens is None:
        return itertools.repeat(None)
    return spec.output_tokens.draws(np.random.default_rng([spec.seed or 0, 1]))


def _said(message: Message) -> bytes:
    return bodies.message(message.role, bodies.encode(message.content))


def prepare(client: httpx.Client, found: Endpoint, spec: Spec) -> Source:
    """Ask the server what its tokens are, once for all stages of a run.

    Args:
        spec: settled.

    Raises:
        UsageError: a length that the chat template leaves no room for, or an entry of a file that is too long.
        EndpointError: the server can't do what the workload is about, or its tokens can't be known.
    """
    form = Form(
        found,
        str(spec.api),
        temperature=spec.temperature,
        ignore_eos=spec.ignore_eos,
        cache=spec.prompts == "same" or spec.kind in ("conversations", "shared-prefix"),
    )
    if spec.file:
        _check_file(client, found, spec, spec.file)
        return _FromFile(spec, form, spec.file)
    exact = found.engine == endpoint.LLAMA_CPP
    rng = np.random.default_rng(None if spec.seed is None else [spec.seed, 3])
    overhead = synthetic.Overhead(0, 0)
    if not exact:
        pieces = synthetic.plain_words(rng)
    elif spec.api in ("completion", "embeddings"):
        pieces = synthetic.token_ids(client, rng)
    else:
        pieces = synthetic.single_words(client, rng)
    if spec.api == "embeddings":
        _ask(client, form, form.body(b'"a"'))
    elif exact and spec.api == "chat":
        overhead = synthetic.chat_overhead(client, pieces)
    elif exact and spec.api == "rerank":
        overhead = _pair_overhead(client, form, pieces)
    if exact:
        spec = _with_room(spec, overhead)
    stock = synthetic.Stock(pieces, rng, longest=max(*_lengths(spec), spec.prefix_tokens))
    prefix = b""
    if spec.prefix_tokens:
        count = spec.prefix_tokens if exact else synthetic.words_of_about(spec.prefix_tokens)
        prefix = stock.cutter(rng)(count) + stock.separator
    return _Synthetic(spec, form, stock, exact, overhead, prefix)


def _with_room(spec: Spec, overhead: synthetic.Overhead) -> Spec:
    """The workload with no length that leaves nothing to say beside what the server adds.

    Raises:
        UsageError: such a length was asked for. The shortest that a log-normal size draws are made longer instead.
    """
    what, around, added = "chat", "the chat template", max(overhead.first, overhead.further if spec.turns > 1 else 0)
    if spec.api == "rerank":
        what, around = "pair of query and document", f"a query of {QUERY_WORDS} words with special tokens"
        added += QUERY_WORDS
    asked = spec.prompt_tokens
    if asked and asked.kind == "lognormal":
        asked = dataclasses.replace(asked, min=min(added + 1, asked.max))
        spec = dataclasses.replace(spec, prompt_tokens=asked)
    least = min(_lengths(spec))
    if least <= added:
        raise UsageError(
            f"no {what} has {least} prompt tokens here: {around} alone takes {added}",
            hint=f"ask for more with {'--lengths' if spec.lengths else '--prompt-tokens'}",
        )
    return spec


def _pair_overhead(client: httpx.Client, form: Form, pieces: Sequence[bytes]) -> synthetic.Overhead:
    """The tokens that llama-server adds to the words of a query and a document.

    Raises:
        EndpointError: it ranks nothing, or pairs of different lengths get different additions.
    """

    def added(query: int, document: int) -> int:
        texts = [b'"' + b"".join(itertools.islice(itertools.cycle(pieces), n))[1:] + b'"' for n in (query, document)]
        answer = _ask(client, form, form.body(texts[0] + b',"documents":[' + texts[1] + b"]"))
        return int(answer["usage"]["prompt_tokens"]) - query - document

    first = added(1, 1)
    if added(QUERY_WORDS, 2 * QUERY_WORDS) != first:
        raise EndpointError(
            f"{client.base_url} joins words to common tokens, so that their number can't be known",
            hint="rank with another model",
        )
    return synthetic.Overhead(first, 0)


def _ask(client: httpx.Client, form: Form, body: bytes) -> dict[str, Any]:
    """One request beforehand, where it shows what the server can't do.

    Raises:
        EndpointError: it answered with an error.
        EndpointDown: it did not answer.
    """
    try:
        response = client.post(form.path, content=body, headers={"Content-Type": "application/json"})
    except httpx.TransportError as error:
        raise EndpointDown(
            f"{client.base_url} does not answer {form.path}: {error}", hint="look into the server's log"
        ) from error
    try:
        answer = response.json()
        if response.status_code == httpx.codes.OK and isinstance(answer, dict):
            return answer
        reason = answer["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = response.reason_phrase
    raise EndpointError(
        f"{client.base_url} answers HTTP {response.status_code} at {form.path}: {reason}",
        hint="deploy a model for it, with the options that the server asks for",
    )


def _check_file(client: httpx.Client, found: Endpoint, spec: Spec, file: PromptFile) -> None:
    """Refuse a file with an entry that does not fit into the context, where the server counts tokens.

    A token is a byte or more, so only entries with many bytes have to be counted.

    Raises:
        UsageError: with file, line and numbers.
    """
    if found.engine != endpoint.LLAMA_CPP or found.n_ctx is None:
        return
    for entry in file.entries:
        turns = entry.turns if spec.kind == "conversations" else (entry.messages,)
        messages = [message for turn in turns for message in turn]
        output = entry.output_tokens or (spec.output_tokens.max if spec.output_tokens else 1)
        if sum(len(message.content.encode()) for message in messages) + len(turns) * output <= found.n_ctx // 2:
            continue  # half of it is more than any template takes
        text = "\n".join(message.content for message in messages)
        if spec.api == "chat" and len(turns) == 1:
            text = endpoint.apply_template(client, [dataclasses.asdict(message) for message in messages])
        asked = len(endpoint.tokenize(client, text, special=True)) + len(turns) * output
        if asked > found.n_ctx:
            raise UsageError(
                f"{file.path}, line {entry.line}: prompt and answer are {asked} tokens, more than the {found.n_ctx} "
                f"of one slot of {found.base_url}",
                hint="take the entry out, ask for fewer with --output-tokens, or raise the instance's ctx_size",
            )
