"""Lengths of prompts and answers in tokens: fixed, drawn from a distribution, or a ladder of them.

    sizes.parse("512"), sizes.parse("uniform:100-900"), sizes.parse("lognormal:512,0.5")
    sizes.parse_ladder("100..32k")                          # (100, 200, 400, ..., 32768)
    sizes.uniform(100, 900).draw(rng, 10)

1k is 1024.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nexus_tasks.core.errors import UsageError
from nexus_tasks.records.benchmark_rows import Lengths

DRAWN_AT_ONCE = 1024
LONGEST_QUANTILE = 3.0902
"""Standard deviations below which 99.9 % of a normal distribution lies."""
WIDEST_SIGMA = 3.0


@dataclass(frozen=True)
class Size:
    """Number of tokens: ``fixed``, ``uniform`` from min to max, or ``lognormal``.

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

    def as_row(self) -> Lengths:
        """For the header of a record: what applies to the kind."""
        return Lengths(
            kind=self.kind,
            mean=self.mean,
            min=self.min if self.kind == "uniform" else None,
            max=None if self.kind == "fixed" else self.max,
            sigma=self.sigma,
        )

    def __str__(self) -> str:
        """As :func:`parse` reads it."""
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


def uniform(minimum: int, maximum: int) -> Size:
    """From ``minimum`` to ``maximum`` tokens, both included, each number as likely as another."""
    return Size("uniform", (minimum + maximum) / 2, minimum, maximum)


def lognormal(mean: float, sigma: float, maximum: int | None = None) -> Size:
    """Mostly short, sometimes long, as people's prompts are. Without ``maximum``, the longest of a thousand is it."""
    if maximum is None:
        maximum = math.ceil(math.exp(_log_median(mean, sigma) + LONGEST_QUANTILE * sigma))
    return Size("lognormal", mean, 1, maximum, sigma)


def _log_median(mean: float, sigma: float) -> float:
    return math.log(mean) - sigma**2 / 2


_SIZE_HINT = "write 512, uniform:100-900 or lognormal:512,0.5 (mean, sigma; a third number is the longest)"


def parse(text: str, option: str = "--prompt-tokens") -> Size:
    """The size that an option names: ``512``, ``2k``, ``uniform:100-900``, ``lognormal:512,0.5[,4k]``.

    Raises:
        UsageError: it is none.
    """
    kind, colon, rest = text.strip().partition(":")
    if not colon:
        return fixed(_tokens(kind, option, _SIZE_HINT))
    if kind == "uniform":
        first, dash, last = rest.partition("-")
        if not dash:
            raise UsageError(f"{option} {text}: uniform needs a range", hint=_SIZE_HINT)
        low, high = _tokens(first, option, _SIZE_HINT), _tokens(last, option, _SIZE_HINT)
        if low > high:
            raise UsageError(f"{option} {text}: the range must go up, not from {low} to {high}", hint=_SIZE_HINT)
        return uniform(low, high)
    if kind == "lognormal":
        numbers = rest.split(",")
        if len(numbers) not in (2, 3):
            raise UsageError(
                f"{option} {text}: lognormal needs mean and sigma, and may have a longest", hint=_SIZE_HINT
            )
        mean = _tokens(numbers[0], option, _SIZE_HINT)
        try:
            sigma = float(numbers[1])
        except ValueError:
            sigma = math.nan
        if not 0 < sigma <= WIDEST_SIGMA:
            must = f"sigma must be above 0 and at most {WIDEST_SIGMA:g}, not {numbers[1].strip()}"
            raise UsageError(f"{option} {text}: {must}", hint="0.5 is usual")
        longest = _tokens(numbers[2], option, _SIZE_HINT) if len(numbers) == 3 else None
        if longest is not None and longest < mean:
            raise UsageError(f"{option} {text}: the longest must be the mean or more", hint=_SIZE_HINT)
        return lognormal(mean, sigma, longest)
    raise UsageError(f"{option} {text}: the distribution must be uniform or lognormal, not {kind!r}", hint=_SIZE_HINT)


_LADDER_HINT = "write 100,1k,8k for these lengths, or 100..32k to double from one to the other (1k is 1024)"


def parse_ladder(text: str, option: str = "--lengths") -> tuple[int, ...]:
    """The prompt lengths that an option names, in tokens: ``100,512,4k``, or ``100..32k``, which doubles.

    Raises:
        UsageError: it names none.
    """
    first, dots, last = text.partition("..")
    if not dots:
        lengths = [_tokens(part, option, _LADDER_HINT) for part in text.split(",")]
        if len(set(lengths)) < len(lengths):
            raise UsageError(f"{option} {text}: each length must be there once", hint=_LADDER_HINT)
        return tuple(lengths)
    low, high = _tokens(first, option, _LADDER_HINT), _tokens(last, option, _LADDER_HINT)
    if low >= high:
        raise UsageError(f"{option} {text}: the range must go up, not from {low} to {high}", hint=_LADDER_HINT)
    doubled = itertools.takewhile(lambda length: length < high, (low * 2**step for step in itertools.count()))
    return (*doubled, high)


def _tokens(text: str, option: str, hint: str) -> int:
    parts = re.fullmatch(r"(\d{1,9})(k?)", text.strip().lower())
    number = int(parts[1]) * (1024 if parts[2] else 1) if parts else 0
    if number < 1:
        raise UsageError(f"{option} must be a number of tokens from 1 on, not {text.strip()!r}", hint=hint)
    return number
