"""Lengths in tokens: how they are written, and how they are drawn."""

from __future__ import annotations

import statistics

import msgspec
import numpy as np
import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.workloads import sizes
from nexus_tasks.workloads.sizes import Size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", sizes.fixed(512)),
        ("2k", sizes.fixed(2048)),
        ("uniform:100-900", sizes.uniform(100, 900)),
        ("uniform:7-7", sizes.uniform(7, 7)),
        ("lognormal:512,0.5,4k", sizes.lognormal(512, 0.5, 4096)),
        (" lognormal:512 , 0.5 ", sizes.lognormal(512, 0.5)),
    ],
)
def test_a_size_is_read_and_written_alike(text: str, size: Size) -> None:
    assert sizes.parse(text) == size
    assert sizes.parse(str(size)) == size


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a number of tokens from 1 on, not ''"),
        ("0", "must be a number of tokens from 1 on, not '0'"),
        ("-5", "must be a number of tokens from 1 on, not '-5'"),
        ("5.5", "must be a number of tokens from 1 on, not '5.5'"),
        ("many", "must be a number of tokens from 1 on, not 'many'"),
        ("normal:5,1", "the distribution must be uniform or lognormal, not 'normal'"),
        ("uniform:5", "uniform needs a range"),
        ("uniform:9-5", "the range must go up, not from 9 to 5"),
        ("uniform:-5-9", "must be a number of tokens from 1 on, not ''"),
        ("lognormal:512", "lognormal needs mean and sigma"),
        ("lognormal:512,0", "sigma must be above 0 and at most 3, not 0"),
        ("lognormal:512,nan", "sigma must be above 0 and at most 3, not nan"),
        ("lognormal:512,half", "sigma must be above 0 and at most 3, not half"),
        ("lognormal:512,9", "sigma must be above 0 and at most 3, not 9"),
        ("lognormal:512,0.5,100", "the longest must be the mean or more"),
        ("lognormal:512,0.5,9,9", "lognormal needs mean and sigma"),
    ],
)
def test_what_is_no_size_is_refused_with_the_option_and_an_example(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        sizes.parse(text, "--output-tokens")
    assert caught.value.message.startswith("--output-tokens")
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("100", (100,)),
        ("4k,100", (4096, 100)),
        ("100..32k", (100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 32768)),
        ("1k..4k", (1024, 2048, 4096)),
    ],
)
def test_a_ladder_names_its_lengths_or_doubles(text: str, lengths: tuple[int, ...]) -> None:
    assert sizes.parse_ladder(text) == lengths


@pytest.mark.parametrize("text", ["", "100,", "100,100", "4k..1k", "1..x", "..5", "0,5"])
def test_what_is_no_ladder_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--lengths"):
        sizes.parse_ladder(text)


def drawn(size: Size, count: int = 20_000) -> list[int]:
    return size.draw(np.random.default_rng(1), count)


def test_drawn_sizes_follow_their_distributions() -> None:
    assert set(drawn(sizes.fixed(5))) == {5}
    uniform = drawn(sizes.uniform(10, 20))
    assert (min(uniform), max(uniform)) == (10, 20)
    assert statistics.fmean(uniform) == pytest.approx(15, rel=0.02)
    lognormal = drawn(sizes.lognormal(512, 0.5, 100_000))
    assert statistics.fmean(lognormal) == pytest.approx(512, rel=0.02)
    assert statistics.stdev(np.log(lognormal)) == pytest.approx(0.5, rel=0.02)


def test_no_log_normal_size_is_beyond_the_longest_or_below_one() -> None:
    assert max(drawn(sizes.lognormal(100, 1.0, 150))) == 150
    assert min(drawn(sizes.lognormal(2, 2.0))) == 1
    without = sizes.lognormal(512, 0.5)
    assert 0.9985 < statistics.fmean(size < without.max for size in drawn(without, 100_000)) < 0.9995


def test_a_record_says_what_applies_to_a_size() -> None:
    assert msgspec.to_builtins(sizes.fixed(5).as_row()) == {"kind": "fixed", "mean": 5}
    uniform = {"kind": "uniform", "mean": 7.5, "min": 5, "max": 10}
    assert msgspec.to_builtins(sizes.uniform(5, 10).as_row()) == uniform
    lognormal = {"kind": "lognormal", "mean": 512, "sigma": 0.5, "max": 900}
    assert msgspec.to_builtins(sizes.lognormal(512, 0.5, 900).as_row()) == lognormal
