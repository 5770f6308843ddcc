"""Declaration of an instance (desired state), and the name of the generation that is exactly that."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import secrets
from typing import Any

from ..hostlib.files import write_file
from ..hostlib.instances import Instance

TRIAL = ".trial"  # added to a name; no instance can have it, since names hold no dot
FILES = {"keys": "@keys", "chat_template.jinja": "@chat_template.jinja", "models.ini": "@models.ini"}


def salt(root: str, create: bool) -> bytes:
    """Random bytes of this host, so that a generation's name says nothing about the keys in it."""
    path = os.path.join(root, ".salt")
    try:
        with open(path, encoding="ascii") as stream:
            return bytes.fromhex(stream.read())
    except (OSError, ValueError):
        drawn = secrets.token_bytes(16)
        if create:
            write_file(path, drawn.hex(), mode=0o600)
        return drawn


class Declaration:
    """The declared state of an instance: its configuration, its files and its keys.

    Args:
        config: what decides the process; ``argv`` may hold the words of FILES.
        files: name to text.
        keys: name to key.
        proof: what the proof asks for; a change of it restarts nothing.
    """

    def __init__(
        self, config: Instance, files: dict[str, str], keys: dict[str, str], proof: dict[str, Any] | None = None
    ) -> None:
        self.config = config
        self.proof = proof or {}
        self.files = dict(files)
        if keys:
            # llama-server takes each line as a key, but for those that begin with a hash.
            self.files["keys"] = "".join(f"# {name}\n{key}\n" for name, key in sorted(keys.items()))

    @property
    def name(self) -> str:
        return self.config.name

    def identity(self, salt_: bytes) -> str:
        """The name of this generation: equal exactly for an equal declaration on the same host."""
        text = json.dumps([self.config.as_json(), self.files], sort_keys=True)
        return hmac.new(salt_, text.encode(), hashlib.sha256).hexdigest()[:12]

    def placed(self, folder: str, identity: str) -> Instance:
        """The configuration as it is in a generation's folder."""
        paths = {word: os.path.join(folder, name) for name, word in FILES.items()}
        return dataclasses.replace(
            self.config,
            argv=tuple(paths.get(word, word) for word in self.config.argv),
            environment={name: _placed(name, value, paths) for name, value in self.config.environment.items()},
            container=self.config.container and tuple(_placed_option(word, paths) for word in self.config.container),
            id=identity,
            folder=folder,
            key_file=os.path.join(folder, "keys") if "keys" in self.files else None,
            given=self.config.given | {"id", "folder", "key_file"},
        )

    def on_side_port(self, port: int) -> Declaration:
        """The same server under another name on another port, to be proven while the old one serves."""
        argv = list(self.config.argv)
        argv[argv.index("--port") + 1] = str(port)
        url = f"{self.config.local_url.rpartition(':')[0]}:{port}"
        name = self.name + TRIAL
        config = dataclasses.replace(self.config, name=name, argv=tuple(argv), port=port, local_url=url)
        return Declaration(config, self.files, {}, self.proof)


def _placed(name: str, value: str, paths: dict[str, str]) -> str:
    """A variable's value; only the role itself sets one of llama-server's, and only they name files."""
    return paths.get(value, value) if name.startswith("LLAMA_") else value


def _placed_option(word: str, paths: dict[str, str]) -> str:
    """A word of a container's options, among which its variables stand as NAME=VALUE."""
    name, sign, value = word.partition("=")
    return f"{name}={_placed(name, value, paths)}" if sign else word
