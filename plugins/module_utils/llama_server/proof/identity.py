"""Checks of who answers: the process, its keys, its model, its build and its context."""

from __future__ import annotations

import os
from typing import Any

from ...hostlib.instances import ModelFile
from ..keys import old_keys, read_keys
from .model_files import file_sha256
from .subject import Subject


def prove_model_file(subject: Subject) -> None:
    """Check that the files are those that were verified: the model's, and what is loaded beside it."""
    config = subject.config
    files = {"model": config.model, **{os.path.basename(file.path): file for file in config.side_models}}
    for what, file in files.items():
        if file and file.sha256:
            actual = file_sha256(subject.folder.root, file.path)
            cause = "the file was replaced after it was verified; deploy again"
            subject.checks.compare(f"{what} sha256", file.sha256, actual, cause)


def prove_keys(subject: Subject) -> str | None:
    """Check that a key is needed and which are taken; return one that is."""
    config, server, folder, checks = subject.config, subject.server, subject.folder, subject.checks
    # /v1/models is public in llama-server; these are not.
    path = "/slots" if config.mode == "router" else "/props"
    keys = read_keys(config)
    if not keys:
        return None
    checks.compare("without a key", 401, server.ask(path)[0], "the server runs without --api-key-file")
    taken = sorted(name for name, key in keys.items() if server.ask(path, key=key)[0] != 401)
    checks.compare("keys that work", sorted(keys), taken, "the server read another key file; restart it")
    earlier = [*old_keys(folder.linked("verified")).values(), *old_keys(folder.linked("previous")).values()]
    old = set(earlier) - set(keys.values())
    if old:
        refused = sum(server.ask(path, key=key)[0] == 401 for key in old)
        checks.compare("keys withdrawn", len(old), refused, "an old key is still taken: the server did not restart")
    mode = os.stat(config.key_file or "").st_mode & 0o777
    checks.compare("key file mode", "0600", f"{mode:04o}", "others could read the keys: deploy again, with new ones")
    return str(min(keys.items())[1])


def prove_identity(subject: Subject) -> dict[str, Any]:
    """Check the model, what it takes beside text, and the build; return what the server says at /props."""
    config, server, checks = subject.config, subject.server, subject.checks
    code, props = server.ask("/props", key=subject.key)
    checks.compare("/props", 200, code, "something other than this llama-server answers on the port")
    props = props if isinstance(props, dict) else {}
    _, models = server.ask("/v1/models", key=subject.key)
    served = [model.get("id") for model in (models or {}).get("data", []) if isinstance(model, dict)]
    model = config.model or ModelFile()
    checks.compare("model id", [model.name], served, "another server answers on the port")
    checks.compare("model file", model.path, props.get("model_path"), "another model was loaded")
    if "--mmproj" in config.argv:
        senses = sorted(name for name, has in (props.get("modalities") or {}).items() if has)
        cause = "the projector was not loaded: the log says why"
        checks.add("modalities", "more than text", ", ".join(senses) or "text", bool(senses), cause)
    commit = config.release.commit[:9]
    subject.row["build"] = build = str(props.get("build_info", ""))
    if commit:
        actual = commit if commit in build else build
        checks.compare("build", commit, actual, "another release answers")
    return props


def prove_context(subject: Subject, props: dict[str, Any]) -> None:
    """Check how many slots there are, and how many tokens each holds."""
    config, checks, row = subject.config, subject.checks, subject.row
    row["slots"] = slots = props.get("total_slots")
    if config.parallel is not None:
        checks.compare("slots", config.parallel, slots, "the server chose another number")
    row["n_ctx"] = context = props.get("default_generation_settings", {}).get("n_ctx")
    if config.ctx_size:
        # Shared by the slots when unified, divided among them otherwise.
        whole = padded(config.ctx_size)
        part = padded(whole // (slots or 1))
        expected, cause = whole if context == whole else part, "it did not fit the memory"
        if context != expected:
            own = own_context(subject)
            # The server gives no slot more than the model's own; of shared ones that may be more than a part.
            if context == own and context < whole:
                expected = whole if context > part else part
                cause = f"the model's own context is {own} tokens: set ctx_size to {own} for each slot at most"
        checks.compare("context per slot", expected, context, cause)


def own_context(subject: Subject) -> Any:
    """The tokens of context that the model was trained with, as the server tells it; None where it does not."""
    _, models = subject.server.ask("/v1/models", key=subject.key)
    served = (models.get("data") if isinstance(models, dict) else None) or [{}]
    return (served[0].get("meta") or {}).get("n_ctx_train") if isinstance(served[0], dict) else None


def padded(tokens: int) -> int:
    """The context length that the server makes of a wanted one: the next multiple of 256."""
    return (tokens + 255) // 256 * 256
