"""What a server adds to what it is asked, counted by its own tokenizer."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import EndpointError
from nexus_tasks.workloads import overhead
from nexus_tasks.workloads.overhead import Overhead
from tests.tokenizers import by_pairs_of_words, by_words, server


def test_what_a_template_adds_is_counted_for_the_first_message_and_for_further_ones() -> None:
    client = server(by_words)
    pieces = [b" ba", b" mi", b" ro"]
    # <, user, >, ba, <, /, user, >, <, answer, >: ten beside one word. A turn has an answer and a question.
    assert overhead.chat(client, pieces) == Overhead(first=10, further=20)


def test_a_tokenizer_that_joins_words_is_refused_instead_of_miscounted() -> None:
    with pytest.raises(EndpointError, match="joins words of a chat to common tokens"):
        overhead.chat(server(by_pairs_of_words), [b" ba", b" mi"])
