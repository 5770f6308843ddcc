"""JSON Schemas that answers must satisfy.

    schemas.check({"type": "object", ...})              # ValueError where it is no schema
    schemas.check_answer(schema, '{"age": "x"}')        # (False, "at $.age: is not of type 'integer'")

A pattern may take longer than the age of the universe on a short text: a check ends after so much processor time.
Reasons name the rule and not the value, and no places in lists: answers that fail alike have the same reason.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import signal
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import referencing
import referencing.exceptions
import referencing.jsonschema

if TYPE_CHECKING:  # its import takes a second, which commands that check nothing do without
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

Schema = dict[str, Any] | bool
NOT_JSON, FENCED, EMPTY = "not JSON", "not JSON alone: it is in a code fence", "empty"
OUT_OF_RANGE, UNRESOLVED = "a number in it is too large", "the schema refers to what is not in it"
TOO_DEEP = "it is nested too deeply to be checked"
CHECK_S = 2.0
TOO_LONG = f"its check takes more than {CHECK_S:.0f} s: see the patterns in the schema"
_SHOWN = 160
_NAME = re.compile(r"[^\W\d]\w*")


def check(schema: Schema) -> None:
    """Refuse what is no JSON Schema, or refers to something that is not in it.

    Raises:
        ValueError: with the place and the reason, in one line.
    """
    with _limits():
        _validator(msgspec.json.encode(schema))


def check_answer(schema: Schema, text: str | None) -> tuple[bool, str | None]:
    """Check an answer against its schema, which :func:`check` accepted.

    Returns:
        Whether it satisfies it, and else the reason.
    """
    if not text or not text.strip():
        return False, EMPTY
    try:
        value = msgspec.json.decode(text)
    except msgspec.ValidationError:  # nothing but the size of a number is looked at here
        return False, OUT_OF_RANGE
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False, FENCED if text.lstrip().startswith("```") else NOT_JSON
    try:
        with _limits():
            from jsonschema.exceptions import best_match

            error = best_match(_validator(msgspec.json.encode(schema)).iter_errors(value))
    except ValueError as problem:
        return False, str(problem)
    return error is None, None if error is None else _reason(error)


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Have a check that meets a limit end with a ValueError that tells which."""
    importlib.import_module("jsonschema")  # takes as long as a check may: before the time counts
    try:
        with _time_limit():
            yield
    except _TooLong as error:
        raise ValueError(TOO_LONG) from error
    except OverflowError as error:  # a whole number of hundreds of digits, and a rule with a fraction
        raise ValueError(OUT_OF_RANGE) from error
    except referencing.exceptions.Unresolvable as error:  # parts with an $id of their own have another base
        raise ValueError(UNRESOLVED) from error
    except BaseException as error:
        # Where Python's stack ends within its Rust parts, they panic, which is no Exception.
        if not isinstance(error, RecursionError) and type(error).__module__ != "pyo3_runtime":
            raise
        raise ValueError(TOO_DEEP) from error


class _TooLong(Exception):
    """A check has had its time."""


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Raise _TooLong after CHECK_S of the processor's time, which a busy machine does not shorten.

    Python's patterns look for signals while they search, and only the main thread gets those: others have no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    is_up = False

    def end(*_: object) -> NoReturn:
        nonlocal is_up
        is_up = True
        raise _TooLong

    former = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, CHECK_S, CHECK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, former)
        if is_up:  # a parser that was interrupted raises an error of its own, or passes it over
            raise _TooLong


@lru_cache(maxsize=256)
def _validator(encoded: bytes) -> Validator:
    """The validator of a schema as JSON; those of rows are often the same.

    Raises:
        ValueError: it is no schema.
    """
    import jsonschema

    schema = msgspec.json.decode(encoded)
    if not isinstance(schema, dict | bool):
        raise ValueError("no JSON Schema: it must be an object")
    if isinstance(schema, dict) and not isinstance(schema.get("$schema", ""), str):
        raise ValueError("no JSON Schema: at $.$schema: it must be a text")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    problem = jsonschema.exceptions.best_match(
        kind(kind.META_SCHEMA, format_checker=kind.FORMAT_CHECKER).iter_errors(schema)
    )
    while problem and problem.context:  # of several forms that it might have, the first is the usual one
        problem = problem.context[0]
    if problem:
        raise ValueError(f"no JSON Schema: {_reason(problem)}")
    _check_references(schema)
    # A registry of its own: nothing is fetched from anywhere.
    validator: Validator = kind(schema, registry=referencing.Registry())
    validator.is_valid(None)  # does not end where the schema refers to itself and nothing else
    return validator


def _check_references(schema: Schema) -> None:
    resource = referencing.Resource.from_contents(schema, default_specification=referencing.jsonschema.DRAFT202012)
    resolver = referencing.Registry[Schema]().resolver_with_root(resource)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable as error:
            raise ValueError(f"no JSON Schema: it refers to {reference}, which is not in it") from error


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (schema[key] for key in ("$ref", "$dynamicRef") if isinstance(schema.get(key), str))
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _reason(error: ValidationError) -> str:
    message = error.message.removeprefix(f"{error.instance!r} ")
    text = f"at {_place(error.absolute_path)}: {' '.join(message.split())}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _place(path: Any) -> str:
    """A path as in ``$.people[*].age``."""
    steps = (
        "[*]" if isinstance(step, int) else f".{step}" if _NAME.fullmatch(step) else f"[{step!r}]" for step in path
    )
    return "$" + "".join(steps)
