"""Decoding: whether a model computes, and how fast beside what it did before."""

from __future__ import annotations

from ..client import REQUEST_SECONDS
from .probe import error_message, probe_of
from .slots import NOT_MEASURED, ServerBusy, SlotRequest
from .subject import Subject

SPEED_TRIES = 3  # a busy moment is not a slow server


def prove_answer(subject: Subject) -> None:
    """Have a model that does not decode answer: one for embeddings or reranking."""
    check, path, body = probe_of(subject.config.mode, subject.wanted["tokens"])
    try:
        code, answer = SlotRequest(subject.server, subject.key, check).ask(path, body, REQUEST_SECONDS)
        subject.checks.compare(check, 200, code, error_message(answer))
    except ServerBusy as error:
        subject.checks.warn("busy", str(error), NOT_MEASURED)


def prove_decode(subject: Subject, *, speed_counts: bool) -> None:
    """Have a model complete a text. ``speed_counts``: whether one that is slower than its floor is a failure."""
    wanted, checks = subject.wanted, subject.checks
    floor, why = _speed_floor(subject)
    wish = {"n_predict": wanted["tokens"], "ignore_eos": True, "cache_prompt": False}
    body = {"prompt": "Once upon a time", **wish}
    speeds: list[float] = []
    beside: list[int] = []  # how many slots worked for others during each
    for _ in range(SPEED_TRIES if speed_counts else 1):
        request = SlotRequest(subject.server, subject.key, "completion")
        try:
            code, answer = request.ask("/completion", body, REQUEST_SECONDS)
        except ServerBusy as error:
            if speeds:
                break
            checks.warn("busy", str(error), NOT_MEASURED)
            return
        timings = answer.get("timings", {}) if isinstance(answer, dict) else {}
        speeds.append(timings.get("predicted_per_second") or 0.0)
        beside.append(request.others)
        if code != 200 or speeds[-1] >= floor:
            break
    checks.compare("completion", 200, code, error_message(answer))
    checks.compare(
        "tokens generated", wanted["tokens"], timings.get("predicted_n"), "decoding stopped early; see the log"
    )
    subject.row["tokens_per_second"] = round(max(speeds), 1)
    if max(beside):
        checks.warn("busy", f"{max(beside)} of {request.total} slots", "the speed is the one beside others' requests")
    if floor and speed_counts:
        expected, found = f"at least {floor:.1f} tokens/s", f"{max(speeds):.1f} tokens/s"
        if max(speeds) < floor and all(beside):  # what is left for one among many says nothing about a floor
            checks.warn("decode speed", found, f"not held against {why}: other requests ran all the while")
            return
        cause = f"slower than {why}: something else uses the machine, or the model is not where it was"
        checks.add("decode speed", expected, found, max(speeds) >= floor, cause)


def _speed_floor(subject: Subject) -> tuple[float, str]:
    """The tokens per second that are the least, and what says so; 0 where nothing does."""
    wanted, model, last = subject.wanted, subject.config.model, subject.folder.last_proof()
    floors = []
    if wanted.get("min_decode_tps"):
        floors.append((float(wanted["min_decode_tps"]), "the floor llama_server_min_decode_tps"))
    is_same_model = last.model is not None and model is not None and last.model.sha256 == model.sha256
    if wanted.get("max_regression") is not None and is_same_model and last.best_tokens_per_second:
        allowed = float(last.best_tokens_per_second) * (1 - float(wanted["max_regression"]))
        floors.append((allowed, f"the best so far, {last.best_tokens_per_second}, less llama_server_max_regression"))
    return max(floors, default=(0.0, ""))
