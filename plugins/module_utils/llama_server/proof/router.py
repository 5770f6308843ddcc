"""Routers: each of their models answers, and lies where it was declared to lie."""

from __future__ import annotations

from urllib.parse import quote

from ..client import REQUEST_SECONDS
from ..work import models_of
from .children import prove_child_keys
from .model_files import file_sha256
from .placement import prove_router_placement
from .probe import error_message, probe_of
from .slots import NOT_MEASURED, ServerBusy, SlotRequest
from .subject import Subject
from .template import prove_prompt


def prove_router(subject: Subject, *, load: bool) -> None:
    """Have each model answer. ``load``: whether those that are not loaded are, else they are left as they are."""
    config, wanted, checks = subject.config, subject.wanted, subject.checks
    server, key = subject.server, subject.key
    seen = models_of(server, key, REQUEST_SECONDS)
    checks.compare("models", sorted(config.models), sorted(seen), "the server read another list of models")
    served: dict[str, list[str]] = {}
    # Those that load with the router come last: where it holds a few only, they are what it holds afterwards.
    for name, model in sorted(config.models.items(), key=lambda item: (item[1].load_on_startup, item[0])):
        actual = file_sha256(subject.folder.root, model.path)
        checks.compare(f"{name} sha256", model.sha256, actual, "the file was replaced after it was verified")
        if not load and seen.get(name, {}).get("value") != "loaded":
            continue
        check, path, body = probe_of(model.mode, wanted["tokens"])
        request = SlotRequest(server, key, f"{name} {check}", f"/slots?model={quote(name)}&autoload=false")
        try:
            # It is loaded first, also where the router does that on demand of its own users only.
            limit = max(wanted["start_timeout"], REQUEST_SECONDS)
            code, answer = request.ask(f"{path}?autoload=true", {"model": name, **body}, limit)
            checks.compare(f"{name} {check}", 200, code, error_message(answer))
        except ServerBusy as error:
            code = 200
            checks.warn(f"{name} busy", str(error), NOT_MEASURED)
        if code == 200:
            served[name] = models_of(server, key, REQUEST_SECONDS)[name]["args"]
            prove_child_keys(subject, name, served[name])
            _count_slots(subject, name)
            if model.mode == "completion":
                prove_prompt(subject, name)
    loaded = {name for name, state in models_of(server, key, REQUEST_SECONDS).items() if state.get("value") == "loaded"}
    prove_router_placement(subject, served, loaded)


def _count_slots(subject: Subject, name: str) -> None:
    """Note how many slots a model has, which decides how many requests a gateway sends."""
    code, props = subject.server.ask(f"/props?model={quote(name)}&autoload=false", key=subject.key)
    slots = props.get("total_slots") if code == 200 and isinstance(props, dict) else None
    if isinstance(slots, int):
        subject.row["slots_by_model"][name] = slots
