"""Prompts of exactly the wanted length, each different from the first token on."""

from __future__ import annotations

import itertools
import random

import pytest

from nexus_tasks import prompts
from nexus_tasks.errors import UsageError


def test_drawn_prompts_have_the_length_and_differ_from_the_first_token_on() -> None:
    drawn = prompts.draw(range(100, 150), 128, 50, random.SystemRandom())
    assert {len(prompt) for prompt in drawn} == {128}
    assert len({prompt[0] for prompt in drawn}) == 50
    assert {token for prompt in drawn for token in prompt} <= set(range(100, 150))


def test_a_small_vocabulary_still_gives_neighbours_that_begin_differently() -> None:
    drawn = prompts.draw([1, 2, 3], 4, 10, random.SystemRandom())
    assert all(one[0] != next_[0] for one, next_ in itertools.pairwise(drawn))


def test_a_prompt_of_one_token_is_possible() -> None:
    assert [len(prompt) for prompt in prompts.draw([1, 2, 3], 1, 2, random.SystemRandom())] == [1, 1]


def chars_with_template(content: str) -> int:
    """A tokenizer of single characters, with a template of ten tokens."""
    return 10 + len(content)


def pairs(content: str) -> int:
    """A tokenizer that merges two characters into one token, as vocabularies do."""
    return (len(content) + 1) // 2


@pytest.mark.parametrize("length", [10, 11, 12, 13, 64, 511, 2048])
def test_a_fitted_text_has_exactly_the_length(length: int) -> None:
    rng = random.SystemRandom()
    assert chars_with_template(prompts.fit(length, chars_with_template, rng)) == length
    assert pairs(prompts.fit(length, pairs, rng)) == length


def test_a_length_below_the_templates_own_is_refused_with_the_numbers() -> None:
    with pytest.raises(UsageError, match="no chat has 9 prompt tokens here: the chat template alone takes 10"):
        prompts.fit(9, chars_with_template, random.SystemRandom())


def test_a_length_that_cannot_be_hit_is_refused() -> None:
    with pytest.raises(UsageError, match="found no chat of exactly 7 prompt tokens"):
        prompts.fit(7, lambda content: 2 * len(content), random.SystemRandom())


@pytest.mark.parametrize("answer", range(6))
def test_the_search_finds_the_last_number_that_fits(answer: int) -> None:
    assert prompts.most(5, lambda number: number <= answer) == min(answer, 5)


def test_texts_are_different_every_time() -> None:
    assert len(set(map(str, prompts.of_about(64, 20)))) == 20
