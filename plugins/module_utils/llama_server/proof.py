"""Proof that a running llama-server is what was declared: identity, context, placement, keys and speed.

/health answers 200 for a server with the wrong model, without its GPU, or from an older run. Each check here compares
something declared with something found, and names the likely cause where they differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .client import (
    LOOK_SECONDS,
    REQUEST_SECONDS,
    Activity,
    Hidden,
    Server,
    Stranger,
    Unanswered,
    described,
    holder,
)  # fmt: skip
from .host import (
    Config,
    Folder,
    HostError,
    old_keys,
    read_json,
    read_keys,
    to_json,
    write_file,
)  # fmt: skip
from .placement import MIB, Proof, prove_placement, prove_router_placement
from .runtimes import Runtime, Status, cmdline

LIVES = 2  # a server that died once may have met a passing fault; twice is a server that can't start
LOOKS = 5  # what is found this often in a row is no passing moment of a start
SLOT_SECONDS = 10  # how long a request of the proof waits for a slot, where others' have all of them
SPEED_TRIES = 3  # a busy moment is not a slow server
LOG_LINES = 30
NOT_MEASURED = "others' requests have all of them and are getting on: nothing was measured"
# "0.00.015.369 E llama_model_load: error loading model: …", or what a launcher or a shell says.
ERROR = re.compile(
    r"(?:^[\d.]+ E (?:srv|cmn|slot|main)?\s*|^(?=.*(?:error|fault|failed|cannot|can't|denied|not found)))(.+)"
)


class NotProven(Exception):
    """Why nothing could be compared, and the likely cause.

    ``restart``: whether a new start may mend it; one that is only slow or at work loses its users' answers by it.
    """

    def __init__(self, message: str, *, restart: bool = True) -> None:
        super().__init__(message)
        self.restart = restart


class Busy(Exception):
    """Users' requests have all slots, and are getting on. Says how many."""


def wait_until_loaded(
    config: Config, runtime: Runtime, timeout: float, progress: Callable[[str], None]
) -> tuple[Server, float]:
    """The server once its /health said 200, and how many seconds that took.

    Raises NotProven when the deadline passes, the server dies again and again, or another process answers.
    """
    started = time.monotonic()
    lives: list[str] = []
    server, activity = Server(config, None), Activity(None)
    answered = "nothing answers"
    down = strange = 0
    while True:
        status = runtime.status(config["name"])
        if status.life and status.life not in lives:
            lives.append(status.life)
        if status.pid != server.pid:
            server, activity = Server(config, status.pid), Activity(status.pid)
        left = timeout - (time.monotonic() - started)
        if status.state == "running":
            strange += 1
            try:
                code, _ = server.ask("/health", timeout=min(REQUEST_SECONDS, max(left, 1)))
                if code == 200:
                    return server, time.monotonic() - started
                answered, strange = f"/health answers {code}", 0
            except Stranger as error:
                answered = str(error)
            except (OSError, http.client.HTTPException):
                strange = 0
        waited = time.monotonic() - started
        progress(f"{config['name']}: loading, {waited:.0f} s")
        down = down + 1 if status.state in ("failed", "stopped") else 0
        if strange > LOOKS:
            raise NotProven(answered)
        if len(lives) > LIVES or down > LOOKS:
            said = complaint(runtime.log(config["name"], LOG_LINES))
            taken = holder(server.host, server.port)
            if taken and taken != status.pid:
                said += f"; port {server.port} is held by {described(taken)}: end that one, or choose another port"
            raise NotProven(f"the server ends while it starts: {said}")
        if waited > timeout:
            raise NotProven(
                f"the server is not ready after {timeout:.0f} s ({answered}): see the log, or raise "
                "llama_server_start_timeout for a slow disk", restart=activity.idle(),
            )  # fmt: skip
        time.sleep(0.2)


def complaint(log: list[str]) -> str:
    """The first error in the last lines of a log."""
    for line in log:
        said = ERROR.search(line)
        if said:
            return said[1].strip()
    return "the log does not say why"


def prove(
    config: Config,
    wanted: dict[str, Any],
    runtime: Runtime,
    folder: Folder,
    *,
    speed_counts: bool = True,
    load: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compare a running server with its generation.

    Args:
        config: the generation that should run.
        wanted: ``start_timeout`` in seconds, ``tokens`` of the timed completion, ``min_decode_tps`` and
            ``max_regression`` (None: no floor).
        runtime: what runs it.
        folder: the instance's, with the last good proof.
        speed_counts: whether a slow server is a failed one; beside a busy old server it is not.
        load: whether a router is to load the models that it has not loaded, to have them answer.

    Returns:
        A row with ``checks``, ``error`` (None when all hold) and what was found. ``answered`` is the moment of the
        monotonic clock at which the server was ready, None where it never was. ``restart`` says whether a new start may
        mend what is wrong: not where a server is only slow or at work, nor where nobody can tell who would hear a key.
    """
    proof = Proof()
    row: dict[str, Any] = {
        "name": config["name"], "generation": config["id"], "runtime": config["runtime"], "url": config["local_url"],
        "release": config["release"]["name"], "model": config["model"], "checks": proof.checks, "error": None,
        "tokens_per_second": None, "n_ctx": None, "slots": None, "pid": None, "offloaded": None, "buffers_mib": {},
        "gpu_processes_mib": None, "placements": {}, "load_seconds": None, "build": None, "answered": None,
        "restart": False,
    }  # fmt: skip
    why: list[str] = []
    restart = True
    server = Server(config, None)
    try:
        server, seconds = wait_until_loaded(config, runtime, wanted["start_timeout"], progress)
        row["load_seconds"] = round(seconds, 2)
        row["answered"] = time.monotonic()
        progress(f"{config['name']}: proving")
        _prove(config, wanted, server, runtime, folder, proof, row, speed_counts, load)
    except NotProven as error:
        why, restart = [str(error)], error.restart
    except Hidden as error:
        why, restart = [str(error)], False
    except HostError as error:
        why = [str(error)]
    except Unanswered as error:
        why, restart = [f"{error} ({config['local_url']}): the log says what it does"], error.idle
    except (OSError, http.client.HTTPException) as error:
        why = [f"it stopped answering at {config['local_url']} ({error}): the log says why"]
        # One that only hung up on this request still has its users'.
        restart = isinstance(error, ConnectionRefusedError) or not server.is_alive()
    failed = [*proof.failures(), *why]
    if failed:
        wrong = {check["check"] for check in proof.checks if not check["ok"]}
        row["restart"] = bool(wrong - {"decode speed"}) or (bool(why) and restart)
        row["error"] = "; ".join(failed)
        with contextlib.suppress(HostError):  # a runtime that does not answer has been told already
            row["log_tail"] = runtime.log(config["name"], LOG_LINES)
            row["log"] = runtime.where_log(config["name"])
    return row


def _prove(
    config: Config, wanted: dict[str, Any], server: Server, runtime: Runtime, folder: Folder, proof: Proof,
    row: dict[str, Any], speed_counts: bool, load: bool,
) -> None:  # fmt: skip
    status = runtime.status(config["name"])
    if status.pid != server.pid:  # it died and was started again
        server = Server(config, status.pid)
    row["pid"] = status.pid
    argv = list(status.argv) if status.argv else cmdline(status.pid or 0)
    proof.compare("command line", config["argv"], argv, "an older server is still running; deploy again")
    try:
        if server.is_listening():  # else the descriptors of another user's process can't be read
            proof.add("listens", status.pid, status.pid, True, "")
    except Stranger as error:
        proof.add("listens", status.pid, error.who, False, str(error))
        return  # nothing more is said to a stranger; the runtime's own process is asked on, whatever its command line
    key = _prove_keys(config, server, folder, proof)

    model = config["model"]
    if model:
        found = file_sha256(folder.root, model["path"])
        proof.compare(
            "model sha256", model["sha256"], found, "the file was replaced after it was verified; deploy again"
        )
    if config["mode"] == "router":
        _prove_router(config, wanted, server, status, runtime, folder, key, proof, row, load)
        return
    props = _prove_identity(config, server, key, proof, row)
    _prove_context(config, props, proof, row)
    if config["has_template"]:
        # The declaration holds the text as this server gives it back; a byte of difference is another template.
        with open(os.path.join(config["folder"], "chat_template.jinja"), encoding="utf-8", newline="") as stream:
            same = stream.read() == props.get("chat_template")
        given = props.get("chat_template") or ""
        summary = "the declared template" if same else f"another one, which begins {given[:40]!r}"
        proof.add("chat template", "the declared template", summary, same, "the server chose a template by itself")
    prove_placement(config, status, runtime, folder, proof, row)
    _prove_speed(config, wanted, server, key, folder, proof, row, speed_counts)


def _prove_keys(config: Config, server: Server, folder: Folder, proof: Proof) -> str | None:
    """Check that a key is needed and which are taken; return one that is."""
    # /v1/models is public in llama-server; these are not.
    path = "/slots" if config["mode"] == "router" else "/props"
    keys = read_keys(config)
    if not keys:
        return None
    proof.compare("without a key", 401, server.ask(path)[0], "the server runs without --api-key-file")
    taken = sorted(name for name, key in keys.items() if server.ask(path, key=key)[0] != 401)
    proof.compare("keys that work", sorted(keys), taken, "the server read another key file; restart it")
    earlier = [*old_keys(folder.linked("verified")).values(), *old_keys(folder.linked("previous")).values()]
    old = set(earlier) - set(keys.values())
    if old:
        refused = sum(server.ask(path, key=key)[0] == 401 for key in old)
        proof.compare("keys withdrawn", len(old), refused, "an old key is still taken: the server did not restart")
    mode = os.stat(config["key_file"]).st_mode & 0o777
    proof.compare("key file mode", "0600", f"{mode:04o}", "others could read the keys: deploy again, with new ones")
    return str(min(keys.items())[1])


def _prove_identity(
    config: Config, server: Server, key: str | None, proof: Proof, row: dict[str, Any]
) -> dict[str, Any]:
    code, props = server.ask("/props", key=key)
    proof.compare("/props", 200, code, "something other than this llama-server answers on the port")
    props = props if isinstance(props, dict) else {}
    _, models = server.ask("/v1/models", key=key)
    served = [model.get("id") for model in (models or {}).get("data", []) if isinstance(model, dict)]
    model = config["model"]
    proof.compare("model id", [model["name"]], served, "another server answers on the port")
    proof.compare("model file", model["path"], props.get("model_path"), "another model was loaded")
    if "--mmproj" in config["argv"]:
        senses = sorted(name for name, has in (props.get("modalities") or {}).items() if has)
        cause = "the projector was not loaded: the log says why"
        proof.add("modalities", "more than text", ", ".join(senses) or "text", bool(senses), cause)
    commit = config["release"]["commit"][:9]
    row["build"] = str(props.get("build_info", ""))
    if commit:
        found = commit if commit in row["build"] else row["build"]
        proof.compare("build", commit, found, "another release answers")
    return props


def _prove_context(config: Config, props: dict[str, Any], proof: Proof, row: dict[str, Any]) -> None:
    row["slots"] = slots = props.get("total_slots")
    if config["parallel"] is not None:
        proof.compare("slots", config["parallel"], slots, "the server chose another number")
    row["n_ctx"] = context = props.get("default_generation_settings", {}).get("n_ctx")
    if config["ctx_size"]:
        # Shared by the slots when unified, divided among them otherwise.
        whole = padded(config["ctx_size"])
        expected = whole if context == whole else padded(whole // (slots or 1))
        cause = "it did not fit the memory, or the model's own is shorter"
        proof.compare("context per slot", expected, context, cause)


def _prove_router(
    config: Config, wanted: dict[str, Any], server: Server, status: Status, runtime: Runtime, folder: Folder,
    key: str | None, proof: Proof, row: dict[str, Any], load: bool,
) -> None:  # fmt: skip
    """Have each model answer. ``load``: whether those that are not loaded are, else they are left as they are."""
    seen = _router_models(server, key)
    proof.compare("models", sorted(config["models"]), sorted(seen), "the server read another list of models")
    served: dict[str, list[str]] = {}
    # Those that load with the router come last: where it holds a few only, they are what it holds afterwards.
    for name, model in sorted(config["models"].items(), key=lambda item: (item[1]["load_on_startup"], item[0])):
        found = file_sha256(folder.root, model["path"])
        proof.compare(f"{name} sha256", model["sha256"], found, "the file was replaced after it was verified")
        if not load and seen.get(name, {}).get("value") != "loaded":
            continue
        check, path, body = _request(model["mode"], wanted["tokens"])
        request = _Request(server, key, f"{name} {check}", f"/slots?model={quote(name)}&autoload=false")
        try:
            # It is loaded first, also where the router does that on demand of its own users only.
            limit = max(wanted["start_timeout"], REQUEST_SECONDS)
            code, answer = request.ask(f"{path}?autoload=true", {"model": name, **body}, limit)
            proof.compare(f"{name} {check}", 200, code, _message(answer))
        except Busy as error:
            code = 200
            proof.warn(f"{name} busy", str(error), NOT_MEASURED)
        if code == 200:
            served[name] = _router_models(server, key)[name]["args"]
    loaded = {name for name, state in _router_models(server, key).items() if state.get("value") == "loaded"}
    prove_router_placement(config, status, runtime, folder, served, loaded, proof, row)


def _router_models(server: Server, key: str | None) -> dict[str, dict[str, Any]]:
    """A router's models: ``value``, which is loaded or not, and ``args``, the command line of the process."""
    _, answer = server.ask("/v1/models", key=key)
    models = answer.get("data", []) if isinstance(answer, dict) else []
    return {str(model["id"]): model.get("status", {}) for model in models if isinstance(model, dict) and "id" in model}


def _request(mode: str, tokens: int) -> tuple[str, str, dict[str, Any]]:
    """What a model is asked: the name of the check, the path and the body."""
    if mode == "embedding":
        return "embedding", "/v1/embeddings", {"input": "Once upon a time"}
    if mode == "reranking":
        documents = ["Paris is in France.", "Bread is baked."]
        return "reranking", "/v1/rerank", {"query": "Where is Paris?", "documents": documents}
    return "completes", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True}


class _Request:
    """A request of the proof that needs a slot, and what the slots do meanwhile.

    Args:
        server: who is asked.
        key: one of its keys.
        check: what the request is for.
        slots: where the slots are told.
    """

    def __init__(self, server: Server, key: str | None, check: str, slots: str = "/slots") -> None:
        self.server = server
        self.key = key
        self.check = check
        self.slots = slots
        self.others = 0  # the most slots that worked for others, of all looks
        self.total = 0
        self._seed = secrets.randbelow(2**31)  # /slots tells it: by it our own request is known among others'
        self._working = 0  # slots that work for others, at the last look
        self._ours = False
        self._seen: list[Any] | None = None
        self._moves = 0

    def ask(self, path: str, body: dict[str, Any], limit: float) -> tuple[int, Any]:
        """The status and the answer.

        Raises Busy where others' requests keep it waiting and the slots move, and NotProven where it takes longer than
        ``limit`` seconds all the same.
        """
        self._limit = limit
        self._began = self._moved = time.monotonic()
        self._activity = Activity(self.server.pid)
        self._look()
        body = {**body, "seed": self._seed}
        code, answer = self.server.ask(path, key=self.key, body=body, meanwhile=self._wait)
        self._look()
        return code, answer

    def _look(self) -> None:
        try:
            code, slots = self.server.ask(self.slots, key=self.key, timeout=LOOK_SECONDS)
        except OSError:  # one that is gone ends the request itself
            return
        if code != 200 or not isinstance(slots, list):  # it has none to tell, or is loading
            return
        working = [slot for slot in slots if slot.get("is_processing")]
        others = [slot for slot in working if slot.get("params", {}).get("seed") != self._seed]
        self.total, self._working, self._ours = len(slots), len(others), len(others) < len(working)
        self.others = max(self.others, self._working)
        told = ("id", "id_task", "is_processing", "n_prompt_tokens_processed", "next_token")
        seen = [[slot.get(name) for name in told] for slot in slots]
        if seen != self._seen:
            self._moves += self._seen is not None
            self._seen, self._moved, self._activity = seen, time.monotonic(), Activity(self.server.pid)

    def _wait(self) -> None:
        """Look whether waiting on is of use."""
        self._look()
        now = time.monotonic()
        busy = f"{self._working} of {self.total} slots"
        getting_on = self._moves > 0 and now - self._moved < REQUEST_SECONDS
        if getting_on and self._working == self.total and now - self._began > SLOT_SECONDS:
            raise Busy(busy)
        if now - self._began < self._limit:
            return
        if getting_on and self._working:
            raise Busy(busy)
        idle = self._activity.idle()
        doing = "its process does nothing" if idle else "its process is at work"
        if self._seen is None:
            slots = "it does not tell what its slots do"
        elif getting_on:
            slots = "it has a slot" if self._ours else "slots were free"
        else:
            still = now - self._moved
            slots = f"{self._working + self._ours} of {self.total} slots work, and none has moved for {still:.0f} s"
        raise NotProven(
            f"{self.check}: no answer within {now - self._began:.0f} s; {slots}, and {doing}: look at its log, and "
            "restart it where that stays so", restart=idle,
        )  # fmt: skip


def _prove_speed(
    config: Config, wanted: dict[str, Any], server: Server, key: str | None, folder: Folder, proof: Proof,
    row: dict[str, Any], counts: bool,
) -> None:  # fmt: skip
    if config["mode"] in ("embedding", "reranking"):
        check, path, body = _request(config["mode"], wanted["tokens"])
        try:
            code, answer = _Request(server, key, check).ask(path, body, REQUEST_SECONDS)
            proof.compare(check, 200, code, _message(answer))
        except Busy as error:
            proof.warn("busy", str(error), NOT_MEASURED)
        return
    floors = []
    if wanted.get("min_decode_tps"):
        floors.append((float(wanted["min_decode_tps"]), "the floor llama_server_min_decode_tps"))
    last = read_json(folder.file("proof.json")) or {}
    comparable = (last.get("model") or {}).get("sha256") == config["model"]["sha256"]
    if wanted.get("max_regression") is not None and comparable and last.get("best_tokens_per_second"):
        allowed = float(last["best_tokens_per_second"]) * (1 - float(wanted["max_regression"]))
        floors.append((allowed, f"the best so far, {last['best_tokens_per_second']}, less llama_server_max_regression"))
    floor, why = max(floors, default=(0.0, ""))
    wish = {"n_predict": wanted["tokens"], "ignore_eos": True, "cache_prompt": False}
    body = {"prompt": "Once upon a time", **wish}
    speeds: list[float] = []
    beside: list[int] = []  # how many slots worked for others during each
    for _ in range(SPEED_TRIES if counts else 1):
        request = _Request(server, key, "completion")
        try:
            code, answer = request.ask("/completion", body, REQUEST_SECONDS)
        except Busy as error:
            if speeds:
                break
            proof.warn("busy", str(error), NOT_MEASURED)
            return
        timings = answer.get("timings", {}) if isinstance(answer, dict) else {}
        speeds.append(timings.get("predicted_per_second") or 0.0)
        beside.append(request.others)
        if code != 200 or speeds[-1] >= floor:
            break
    proof.compare("completion", 200, code, _message(answer))
    proof.compare(
        "tokens generated", wanted["tokens"], timings.get("predicted_n"), "decoding stopped early; see the log"
    )
    row["tokens_per_second"] = round(max(speeds), 1)
    if max(beside):
        proof.warn("busy", f"{max(beside)} of {request.total} slots", "the speed is the one beside others' requests")
    if floor and counts:
        expected, found = f"at least {floor:.1f} tokens/s", f"{max(speeds):.1f} tokens/s"
        if max(speeds) < floor and all(beside):  # what is left for one among many says nothing about a floor
            proof.warn("decode speed", found, f"not held against {why}: other requests ran all the while")
            return
        cause = f"slower than {why}: something else uses the machine, or the model is not where it was"
        proof.add("decode speed", expected, found, max(speeds) >= floor, cause)


def keep(row: dict[str, Any], folder: Folder) -> None:
    """Remember a good proof. ``best_tokens_per_second`` is the best of this model here, so decline can't creep, and
    what a busy server did not let be measured stays what it was.
    """
    last = read_json(folder.file("proof.json")) or {}
    speed, best = row["tokens_per_second"], row["tokens_per_second"]
    if (last.get("model") or {}).get("sha256") == (row["model"] or {}).get("sha256"):
        best = max(best or 0, last.get("best_tokens_per_second") or 0) or None
    if last.get("generation") == row["generation"]:
        speed = speed or last.get("tokens_per_second")
    kept = {**row, "tokens_per_second": speed, "best_tokens_per_second": best}
    write_file(folder.file("proof.json"), to_json(kept))


def _message(answer: object) -> str:
    said = answer.get("error") if isinstance(answer, dict) else None
    return str(said.get("message", "see the log")) if isinstance(said, dict) else "see the log"


def padded(tokens: int) -> int:
    """The context length that the server makes of a wanted one: the next multiple of 256."""
    return (tokens + 255) // 256 * 256


def file_sha256(root: str, path: str) -> str:
    """The sha256 of a file, read again only when the file changed since the last time.

    Raises HostError where it can't be read.
    """
    try:
        stat = os.stat(path)
        signature = [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        remembered = os.path.join(root, ".sha256.json")
        known = read_json(remembered) or {}
        if known.get(path, [None])[0] != signature:
            digest = hashlib.sha256()
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(4 * MIB), b""):
                    digest.update(block)
            known = {name: entry for name, entry in known.items() if os.path.exists(name)}
            known[path] = [signature, digest.hexdigest()]
            with contextlib.suppress(OSError):  # a full disk costs time, and no more
                write_file(remembered, to_json(known))
        return str(known[path][1])
    except OSError as error:
        raise HostError(f"model {path} can't be read ({error.strerror}): deploy again") from error
