"""Command lines read as options."""

from __future__ import annotations

import pytest

from nexus_tasks.hostlib.argv import flag_of, is_flag, options, values_of


def test_a_value_that_is_glued_to_a_flag_is_left_out() -> None:
    assert flag_of("--api-key=sesame=x") == "--api-key"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["server", "-c", "4096", "--jinja"], [("-c", ("4096",)), ("--jinja", ())]),
        (["server", "more", "--temp", "-.5", "-s", "-1", "-f", "-"],
         [("--temp", ("-.5",)), ("-s", ("-1",)), ("-f", ("-",))]),
        (["--ctx-size=4096", "--override-tensor=a=CPU", "b"],
         [("--ctx-size", ("4096",)), ("--override-tensor", ("a=CPU", "b"))]),
        (["s", "--lora", "a", "--lora", "b", "--range", "1", "2"],
         [("--lora", ("a",)), ("--lora", ("b",)), ("--range", ("1", "2"))]),
        (["server"], []),
        ([], []),
    ],
)  # fmt: skip
def test_an_option_is_a_flag_with_the_values_up_to_the_next(
    argv: list[str], expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    read = options(argv)
    assert [(option.flag, option.values) for option in read] == expected
    assert [word for option in read for word in option.words] == argv[len(argv) - sum(len(o.words) for o in read) :]


def test_each_time_that_a_flag_is_given_counts_in_any_of_its_spellings() -> None:
    argv = ["s", "-ngld", "3", "--x", "--gpu-layers-draft=99", "-ngld", "--y", "5"]
    assert values_of(argv, {"-ngld", "--gpu-layers-draft"}) == ["3", "99"]


@pytest.mark.parametrize(("word", "flag"), [("-c", True), ("--x-y", True), ("-1", False), ("-", False), ("c", False)])
def test_a_number_and_a_hyphen_are_no_flags(word: str, flag: bool) -> None:
    assert is_flag(word) is flag
