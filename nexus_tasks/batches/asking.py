"""Asking: the requests that rows become.

    asking = Asking(api="chat", system="Be short.", parameters={"max_tokens": 100})
    request = asking.request(row, sample=0)         # a Request, or CannotAsk

A row's own parameters count more than the run's. Bodies have no model, which belongs to the server; those of chats and
completions ask for a stream with the usage at its end.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from nexus_tasks.batches import parameters as parameters_module
from nexus_tasks.batches import schemas, templates
from nexus_tasks.batches.columns import Columns, given, parsed
from nexus_tasks.batches.formats import MAX_ROW_BYTES
from nexus_tasks.batches.items import KEY_BYTES, CannotAsk, Request, Row
from nexus_tasks.batches.parameters import Parameters

PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "embeddings": "/v1/embeddings"}
APIS = tuple(PATHS)
STREAMED = {PATHS["chat"], PATHS["completion"]}
SEEDS = 2**32 - 1
"""Seeds are less; to llama-server, this number means any."""
_EXCLUSIVE = (("json_schema", "grammar"), ("tools", "grammar"))
_encode = msgspec.json.Encoder().encode


class Asking(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows become requests by this; the same for all rows of a batch.

    Args:
        api: one of :data:`APIS`.
        columns: the columns that say what is asked.
        system: the system prompt of rows that have none of their own; chats only.
        template: of the prompt, with columns as variables; None: the prompt is a column.
        parameters: by name, as :func:`parameters.checked` gives them.
        samples: requests of each row; they differ in their seed, which is the row's or the run's plus the sample's
            number. Without either it counts from 0 where there are several.
        sampling: the name of the preset that is among the parameters.
    """

    api: str = "chat"
    columns: Columns = Columns()
    system: str | None = None
    template: str | None = None
    parameters: Parameters = {}
    samples: int = 1
    sampling: str | None = None

    def settings(self) -> dict[str, Any]:
        """All that is not by default, by name, in one level: for those who compare or record it."""
        plain = msgspec.to_builtins(self)
        columns = plain.pop("columns", {})
        single = {f"column of {name}": column for name, column in columns.pop("single", {}).items()}
        return {**plain.pop("parameters", {}), **plain, **{f"{n} column": c for n, c in columns.items()}, **single}

    def request(self, row: Row, sample: int) -> Request:
        """The request of a row's sample, which is counted from 0.

        Raises:
            CannotAsk: the row says not enough, or what can't be asked.
        """
        own = parameters_module.of_row(row.fields, self.columns)
        values = {**self.parameters, **own}
        if "json_schema" in own:
            check_schema(own["json_schema"])
        if self.samples > 1:
            values["seed"] = (values.get("seed", 0) + sample) % SEEDS
        content, prefix = self._content(row)
        schema = values.get("json_schema")
        body = {**content, **body_parameters(self.api, values)}
        return request(PATHS[self.api], body, schema=schema, prefix=prefix)

    def _content(self, row: Row) -> tuple[dict[str, Any], bytes | None]:
        """The part of the body that is asked, and the digest of what it begins with."""
        if self.api == "chat":
            messages = self._messages(row)
            return {"messages": messages}, self._prefix(messages)
        name = "input" if self.api == "embeddings" else "prompt"
        return {name: self._prompt(row)}, self._prefix([])

    def _messages(self, row: Row) -> list[dict[str, Any]]:
        messages = None if self.template is not None else parsed(row.fields, self.columns.messages, list)
        if messages is None:
            messages = [{"role": "user", "content": self._prompt(row)}]
        elif given(row.fields, self.columns.prompt) is not None:
            first, second = self.columns.prompt, self.columns.messages
            raise CannotAsk(
                "malformed", f"it has both {first} and {second}: say which with --{{prompt,messages}}-column"
            )
        messages = [_message(message) for message in messages]
        if not messages:
            raise CannotAsk("no_prompt", f"its {self.columns.messages} is empty")
        system = given(row.fields, self.columns.system)
        system = self.system if system is None else system
        if system is None or messages[0]["role"] in ("system", "developer"):
            return messages
        return [{"role": "system", "content": _text(self.columns.system, system)}, *messages]

    def _prompt(self, row: Row) -> str:
        if self.template is not None:
            return templates.parse(self.template).render(row.fields)
        prompt = given(row.fields, self.columns.prompt)
        if prompt is None:
            names = [self.columns.prompt, self.columns.messages if self.api == "chat" else None]
            raise CannotAsk("no_prompt", f"it has no {' and no '.join(name for name in names if name)}")
        return _text(self.columns.prompt, prompt)

    def _prefix(self, messages: list[dict[str, Any]]) -> bytes | None:
        head = templates.parse(self.template).texts[0] if self.template is not None else ""
        return prefix_of(messages, head)


def request(
    path: str,
    body: dict[str, Any],
    *,
    schema: schemas.Schema | None = None,
    prefix: bytes | None = None,
) -> Request:
    """A request with its key; ``body`` is all of it but model and stream.

    Raises:
        CannotAsk: a text of it can't be sent, or there is too much of it.
    """
    stream = path in STREAMED
    if stream:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        encoded = _encode(body)
    except UnicodeEncodeError as error:
        raise CannotAsk("malformed", f"it has half a surrogate pair: {error.reason}") from error
    if len(encoded) > MAX_ROW_BYTES:
        raise CannotAsk("too_large", f"the request has more than {MAX_ROW_BYTES >> 20} MiB")
    return Request(path, encoded, digest(path.encode() + b"\0" + encoded), stream, schema, prefix)


def digest(data: bytes) -> bytes:
    """The digest that keys and prefixes are told apart by."""
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


def prefix_of(messages: list[dict[str, Any]], head: str = "") -> bytes | None:
    """The digest of what a prompt shares with others: its system prompt and the head of its template."""
    system = messages[0].get("content") if messages and messages[0].get("role") in ("system", "developer") else None
    return digest(_encode([system, head])) if system or head.strip() else None


def body_parameters(api: str, values: Parameters) -> dict[str, Any]:
    """The parameters as the body of an API has them.

    Raises:
        CannotAsk: two of them exclude each other, or the API has none like it.
    """
    problem = parameter_problem(api, values)
    if problem is not None:
        raise CannotAsk("parameter", problem)
    if api != "chat" or "json_schema" not in values:
        return values
    schema = {"name": "answer", "schema": values["json_schema"], "strict": True}
    rest = {name: value for name, value in values.items() if name != "json_schema"}
    return {**rest, "response_format": {"type": "json_schema", "json_schema": schema}}


def parameter_problem(api: str, values: Parameters) -> str | None:
    """The reason why parameters don't fit together or to the API, in one line; None where they do."""
    if api == "embeddings" and values:
        return f"embeddings have no {next(iter(values))}"
    if "tools" in values and api != "chat":
        return "tools need --api chat"
    return next((f"{' and '.join(pair)} exclude each other" for pair in _EXCLUSIVE if set(pair) <= values.keys()), None)


def check_schema(schema: schemas.Schema) -> None:
    """Set a row aside whose schema is none.

    Raises:
        CannotAsk: with the reason.
    """
    try:
        schemas.check(schema)
    except ValueError as error:
        raise CannotAsk("schema", str(error)) from error


def _message(message: Any) -> dict[str, Any]:
    """A message of a chat without what it lacks: in tables that is null."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise CannotAsk("malformed", f"a message must be an object with a role, not {message!r:.50}")
    return {name: value for name, value in message.items() if value is not None or name == "content"}


def _text(name: str | None, value: Any) -> str:
    if not isinstance(value, str):
        raise CannotAsk("malformed", f"its {name} must be a text, not {value!r:.50}")
    return value
