"""Requests of a file's prompts and conversations.

    source = file_source.prepare(client, server, spec, file, form)
    next(source.items(stage=0))

They are asked in the file's order, again and again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from nexus_tasks.core.errors import UsageError
from nexus_tasks.load.requests import Item
from nexus_tasks.servers import endpoint
from nexus_tasks.servers.endpoint import Endpoint
from nexus_tasks.workloads import bodies
from nexus_tasks.workloads.bodies import Form
from nexus_tasks.workloads.prompt_file import Message, PromptFile
from nexus_tasks.workloads.workload import Spec, output_limits


@dataclass(frozen=True)
class FileSource:
    """The entries of a file, in its order, again and again."""

    spec: Spec
    form: Form
    file: PromptFile

    def items(self, *, stage: int = 0, length: int | None = None) -> Iterator[Item]:
        if length is not None:
            raise ValueError(f"stage {stage} can't have a length: the file's prompts have theirs")
        outputs = output_limits(self.spec)
        for entry in itertools.cycle(self.file.entries):
            if self.spec.kind == "conversations":
                turns = [[_content_of(message) for message in turn] for turn in entry.turns]
                limits = [entry.output_tokens or output for output in itertools.islice(outputs, len(turns))]
                requests = self.form.conversation(turns, limits)
                asked = [turn[-1].content for turn in entry.turns]
            else:
                value = b"[" + b",".join(map(_content_of, entry.messages)) + b"]"
                if self.spec.api == "completion":
                    value = bodies.encode(entry.text)
                output = entry.output_tokens or next(outputs)
                requests = (self.form.request(self.form.body(value, output), output=output),)
                asked = [entry.messages[-1].content]
            texts = zip(requests, asked, strict=True)
            yield Item(tuple(dataclasses.replace(request, text=text) for request, text in texts), entry.key)


def prepare(client: httpx.Client, server: Endpoint, spec: Spec, file: PromptFile, form: Form) -> FileSource:
    """The file's entries as requests of this server.

    Raises:
        UsageError: an entry is too long for the server's context.
    """
    _check_lengths(client, server, spec, file)
    return FileSource(spec, form, file)


def _content_of(message: Message) -> bytes:
    return bodies.message(message.role, bodies.encode(message.content))


def _check_lengths(client: httpx.Client, server: Endpoint, spec: Spec, file: PromptFile) -> None:
    """Refuse a file with an entry that does not fit into the context, where the server counts tokens.

    A token is a byte or more, so only entries with many bytes have to be counted.

    Raises:
        UsageError: with file, line and numbers.
    """
    if server.engine != endpoint.LLAMA_CPP or server.n_ctx is None:
        return
    for entry in file.entries:
        turns = entry.turns if spec.kind == "conversations" else (entry.messages,)
        messages = [message for turn in turns for message in turn]
        output = entry.output_tokens or (spec.output_tokens.max if spec.output_tokens else 1)
        if sum(len(message.content.encode()) for message in messages) + len(turns) * output <= server.n_ctx // 2:
            continue  # half of it is more than any template takes
        text = "\n".join(message.content for message in messages)
        if spec.api == "chat" and len(turns) == 1:
            text = endpoint.apply_template(client, [dataclasses.asdict(message) for message in messages])
        asked = len(endpoint.tokenize(client, text, special=True)) + len(turns) * output
        if asked > server.n_ctx:
            raise UsageError(
                f"{file.path}, {entry.place}: prompt and answer are {asked} tokens, more than the {server.n_ctx} "
                f"of one slot of {server.base_url}",
                hint="take the entry out, ask for fewer with --output-tokens, or raise the instance's ctx_size",
            )
