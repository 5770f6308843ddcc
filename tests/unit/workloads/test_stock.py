"""Prompts of exactly the wanted length, each different from the first token on."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest

from nexus_tasks.core.errors import EndpointError
from nexus_tasks.workloads import stock
from tests.tokenizers import by_letters, server


def ids(first: int, last: int) -> list[bytes]:
    return [b",%d" % token for token in range(first, last)]


def cut_many(pieces: Sequence[bytes], length: int, count: int, seed: int | None = None) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    cut = stock.Stock(pieces, rng, longest=length).cutter(rng)
    return [json.loads(b"[" + cut(length) + b"]") for _ in range(count)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 128, 3000])
def test_cut_prompts_have_the_length_and_differ_from_the_first_token_on(length: int) -> None:
    cut = cut_many(ids(100, 150), length, 50)
    assert {len(prompt) for prompt in cut} == {length}
    assert len({prompt[0] for prompt in cut}) == 50
    assert {token for prompt in cut for token in prompt} <= set(range(100, 150))


def test_a_small_vocabulary_still_gives_neighbours_that_begin_differently() -> None:
    cut = cut_many(ids(1, 4), 4, 10)
    assert all(one[0] != next_[0] for one, next_ in itertools.pairwise(cut))


def test_prompts_that_begin_at_one_place_of_the_stock_differ_as_well() -> None:
    assert len({tuple(prompt[:4]) for prompt in cut_many(ids(0, 1000), 16, 5000)}) == 5000


def test_a_prompt_can_be_longer_than_the_usual_stock() -> None:
    length = 2 * stock.STOCK_TOKENS
    assert [len(prompt) for prompt in cut_many(ids(0, 9), length, 2)] == [length] * 2


def test_a_seed_makes_the_same_prompts_again_and_none_makes_new_ones() -> None:
    assert cut_many(ids(0, 99), 64, 20, seed=7) == cut_many(ids(0, 99), 64, 20, seed=7)
    assert cut_many(ids(0, 99), 64, 20, seed=7) != cut_many(ids(0, 99), 64, 20, seed=8)
    assert cut_many(ids(0, 99), 64, 20) != cut_many(ids(0, 99), 64, 20)


def test_words_of_a_cut_text_are_separated_and_none_is_broken() -> None:
    rng = np.random.default_rng()
    pieces = stock.plain_words(rng)
    text = stock.Stock(pieces, rng, longest=500).cutter(rng)(500)
    assert len(text.split(b" ")) == 500
    assert {b" " + word for word in text.split(b" ")} <= set(pieces)


def test_words_of_one_token_each_are_found() -> None:
    def short_words_are_tokens(text: str) -> list[int]:
        return [sum(part.encode()) for part in re.findall(r" [a-z]{2}(?![a-z])|.|\n", text)]

    found = stock.single_words(server(short_words_are_tokens), np.random.default_rng())
    assert len(found) >= stock.WORDS_NEEDED
    assert {len(word) for word in found} == {3}


def test_a_vocabulary_without_words_is_refused_with_the_way_out() -> None:
    with pytest.raises(EndpointError, match="too few words are one token") as caught:
        stock.single_words(server(by_letters), np.random.default_rng())
    assert "--api completion" in caught.value.hint


def test_a_server_without_tokens_for_letters_is_refused() -> None:
    with pytest.raises(EndpointError, match="no tokens of English letters"):
        stock.token_ids(server(lambda _: []), np.random.default_rng())
    with pytest.raises(EndpointError, match="too few words are one token"):
        stock.single_words(server(lambda _: []), np.random.default_rng())
