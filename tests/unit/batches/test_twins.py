from __future__ import annotations

import numpy as np

from nexus_tasks.batches.items import KEY_BYTES
from nexus_tasks.batches.twins import Twins


def keys(names: str) -> bytes:
    """A key for each letter; that of a dot is zero."""
    return b"".join(bytes(KEY_BYTES) if name == "." else name.encode().rjust(KEY_BYTES, b"k") for name in names)


def test_the_first_of_identical_items_leads_the_others() -> None:
    twins = Twins(keys("abacab"))
    assert [twins.leader(index) for index in range(6)] == [0, 1, 0, 3, 0, 1]
    assert [twins.followers(index).tolist() for index in (0, 1, 3)] == [[2, 4], [5], []]


def test_items_that_cannot_be_asked_have_no_twins() -> None:
    twins = Twins(keys(".a.a."))
    assert [twins.leader(index) for index in range(5)] == [0, 1, 2, 1, 4]
    assert [twins.followers(index).tolist() for index in (0, 1, 2, 4)] == [[], [3], [], []]


def test_keys_that_differ_in_one_half_are_not_the_same() -> None:
    twins = Twins(b"a" * 8 + b"b" * 8 + b"a" * 8 + b"c" * 8 + b"d" * 8 + b"b" * 8)
    assert [twins.leader(index) for index in range(3)] == [0, 1, 2]


def test_many_items_are_sorted_out_as_a_dict_would() -> None:
    letters = np.random.default_rng(7).integers(1, 256, 5000)
    names = [bytes([letter]).rjust(KEY_BYTES, b"k") for letter in letters]
    first: dict[bytes, int] = {}
    twins = Twins(b"".join(names))
    assert [twins.leader(index) for index in range(5000)] == [
        first.setdefault(name, index) for index, name in enumerate(names)
    ]


def test_no_items_have_no_twins() -> None:
    Twins(b"")
