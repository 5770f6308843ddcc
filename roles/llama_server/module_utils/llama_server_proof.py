"""Proof that a running llama-server is what was declared: identity, context, placement, keys and speed.

/health answers 200 for a server with the wrong model, without its GPU, or from an older run. Each check here compares
something declared with something found, and names the likely cause where they differ.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from ansible.module_utils.llama_server_host import (
    Config,
    Folder,
    HostError,
    old_keys,
    read_json,
    read_keys,
    to_json,
    write_file,
)  # fmt: skip
from ansible.module_utils.llama_server_placement import MIB, Proof, prove_placement, prove_router_placement
from ansible.module_utils.llama_server_runtimes import Runtime, Status, cmdline

REQUEST_SECONDS = 120
LIVES = 2  # a server that died once may have met a passing fault; twice is a server that can't start
SPEED_TRIES = 3  # a busy moment is not a slow server
LOG_LINES = 30
# "0.00.015.369 E llama_model_load: error loading model: …", or what a launcher or a shell says.
ERROR = re.compile(
    r"(?:^[\d.]+ E (?:srv|cmn|slot|main)?\s*|^(?=.*(?:error|fault|failed|cannot|can't|denied|not found)))(.+)"
)


class NotProven(Exception):
    """Why nothing could be compared, and the likely cause."""


def ask(
    url: str, key: str | None = None, body: dict[str, Any] | None = None, timeout: float = REQUEST_SECONDS
) -> tuple[int, Any]:
    """One request to a server on this host: the status and the JSON that came with it.

    Raises OSError where nothing answers, and HTTPException where what answers does not speak HTTP.
    """
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None)  # noqa: S310 - http to this host
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    # No proxy: the server is on this host, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read()
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, {}


def wait_until_loaded(config: Config, runtime: Runtime, timeout: float, progress: Callable[[str], None]) -> float:
    """Seconds until /health said 200.

    Raises NotProven when the deadline passes, or the server dies again and again.
    """
    started = time.monotonic()
    lives: list[str] = []
    answered = "nothing answers"
    down = 0
    while True:
        status = runtime.status(config["name"])
        if status.life and status.life not in lives:
            lives.append(status.life)
        if status.state == "running":
            try:
                code, _ = ask(config["local_url"] + "/health")
                if code == 200:
                    return time.monotonic() - started
                answered = f"/health answers {code}"
            except (OSError, http.client.HTTPException):
                pass
        waited = time.monotonic() - started
        progress(f"{config['name']}: loading, {waited:.0f} s")
        down = down + 1 if status.state in ("failed", "stopped") else 0
        if len(lives) > LIVES or down > 5:
            raise NotProven(f"the server ends while it starts: {complaint(runtime.log(config['name'], LOG_LINES))}")
        if waited > timeout:
            raise NotProven(
                f"the server is not ready after {timeout:.0f} s ({answered}): see the log, or raise "
                "llama_server_start_timeout for a slow disk"
            )
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
        monotonic clock at which the server was ready, None where it never was.
    """
    proof = Proof()
    row: dict[str, Any] = {
        "name": config["name"], "generation": config["id"], "runtime": config["runtime"], "url": config["local_url"],
        "release": config["release"]["name"], "model": config["model"], "checks": proof.checks, "error": None,
        "tokens_per_second": None, "n_ctx": None, "slots": None, "pid": None, "offloaded": None, "buffers_mib": {},
        "gpu_processes_mib": None, "placements": {}, "load_seconds": None, "build": None, "answered": None,
    }  # fmt: skip
    try:
        row["load_seconds"] = round(wait_until_loaded(config, runtime, wanted["start_timeout"], progress), 2)
        row["answered"] = time.monotonic()
        progress(f"{config['name']}: proving")
        _prove(config, wanted, runtime, folder, proof, row, speed_counts, load)
        failed = proof.failures()
    except (NotProven, HostError) as error:
        failed = [str(error)]
    except (OSError, http.client.HTTPException) as error:
        failed = [f"it stopped answering at {config['local_url']} ({error}): the log says why"]
    if failed:
        row["error"] = "; ".join(failed)
        with contextlib.suppress(HostError):  # a runtime that does not answer has been told already
            row["log_tail"] = runtime.log(config["name"], LOG_LINES)
            row["log"] = runtime.where_log(config["name"])
    return row


def _prove(
    config: Config, wanted: dict[str, Any], runtime: Runtime, folder: Folder, proof: Proof, row: dict[str, Any],
    speed_counts: bool, load: bool,
) -> None:  # fmt: skip
    status = runtime.status(config["name"])
    row["pid"] = status.pid
    argv = list(status.argv) if status.argv else cmdline(status.pid or 0)
    proof.compare("command line", config["argv"], argv, "an older server is still running; deploy again")
    listener = holder(config["port"])
    if listener is not None:  # another user's sockets can't be told from one another without root
        proof.compare("listens", status.pid, listener, f"another process answers on port {config['port']}")
    key = _prove_keys(config, folder, proof)

    model = config["model"]
    if model:
        found = file_sha256(folder.root, model["path"])
        proof.compare(
            "model sha256", model["sha256"], found, "the file was replaced after it was verified; deploy again"
        )
    if config["mode"] == "router":
        _prove_router(config, wanted, status, runtime, folder, key, proof, row, load)
        return
    props = _prove_identity(config, key, proof, row)
    _prove_context(config, props, proof, row)
    if config["has_template"]:
        # The declaration holds the text as this server gives it back; a byte of difference is another template.
        with open(os.path.join(config["folder"], "chat_template.jinja"), encoding="utf-8", newline="") as stream:
            same = stream.read() == props.get("chat_template")
        given = props.get("chat_template") or ""
        summary = "the declared template" if same else f"another one, which begins {given[:40]!r}"
        proof.add("chat template", "the declared template", summary, same, "the server chose a template by itself")
    prove_placement(config, status, runtime, folder, proof, row)
    _prove_speed(config, wanted, key, folder, proof, row, speed_counts)


def _prove_keys(config: Config, folder: Folder, proof: Proof) -> str | None:
    """Check that a key is needed and which are taken; return one that is."""
    url = config["local_url"] + "/props"  # /v1/models is public in llama-server; /props is not
    keys = read_keys(config)
    if config["mode"] == "router":
        url = config["local_url"] + "/slots"
    if not keys:
        return None
    proof.compare("without a key", 401, ask(url)[0], "the server runs without --api-key-file")
    taken = sorted(name for name, key in keys.items() if ask(url, key)[0] != 401)
    proof.compare("keys that work", sorted(keys), taken, "the server read another key file; restart it")
    earlier = [*old_keys(folder.linked("verified")).values(), *old_keys(folder.linked("previous")).values()]
    old = set(earlier) - set(keys.values())
    if old:
        refused = sum(ask(url, key)[0] == 401 for key in old)
        proof.compare("keys withdrawn", len(old), refused, "an old key is still taken: the server did not restart")
    mode = os.stat(config["key_file"]).st_mode & 0o777
    proof.compare("key file mode", "0600", f"{mode:04o}", "others could read the keys: deploy again, with new ones")
    return str(min(keys.items())[1])


def _prove_identity(config: Config, key: str | None, proof: Proof, row: dict[str, Any]) -> dict[str, Any]:
    code, props = ask(config["local_url"] + "/props", key)
    proof.compare("/props", 200, code, "something other than this llama-server answers on the port")
    props = props if isinstance(props, dict) else {}
    _, models = ask(config["local_url"] + "/v1/models", key)
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
    config: Config, wanted: dict[str, Any], status: Status, runtime: Runtime, folder: Folder, key: str | None,
    proof: Proof, row: dict[str, Any], load: bool,
) -> None:  # fmt: skip
    """Have each model answer. ``load``: whether those that are not loaded are, else they are left as they are."""
    url = config["local_url"]
    seen = _router_models(url, key)
    proof.compare("models", sorted(config["models"]), sorted(seen), "the server read another list of models")
    served: dict[str, list[str]] = {}
    # Those that load with the router come last: where it holds a few only, they are what it holds afterwards.
    for name, model in sorted(config["models"].items(), key=lambda item: (item[1]["load_on_startup"], item[0])):
        found = file_sha256(folder.root, model["path"])
        proof.compare(f"{name} sha256", model["sha256"], found, "the file was replaced after it was verified")
        if not load and seen.get(name, {}).get("value") != "loaded":
            continue
        check, path, body = _request(model["mode"], wanted["tokens"])
        # It is loaded first, also where the router does that on demand of its own users only.
        code, answer = ask(
            f"{url}{path}?autoload=true", key, {"model": name, **body}, timeout=wanted["start_timeout"]
        )  # fmt: skip
        proof.compare(f"{name} {check}", 200, code, _message(answer))
        if code == 200:
            served[name] = _router_models(url, key)[name]["args"]
    loaded = {name for name, state in _router_models(url, key).items() if state.get("value") == "loaded"}
    prove_router_placement(config, status, runtime, folder, served, loaded, proof, row)


def _router_models(url: str, key: str | None) -> dict[str, dict[str, Any]]:
    """A router's models: ``value``, which is loaded or not, and ``args``, the command line of the process."""
    _, answer = ask(url + "/v1/models", key)
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


def _prove_speed(
    config: Config, wanted: dict[str, Any], key: str | None, folder: Folder, proof: Proof, row: dict[str, Any],
    counts: bool,
) -> None:  # fmt: skip
    url = config["local_url"]
    if config["mode"] in ("embedding", "reranking"):
        check, path, body = _request(config["mode"], wanted["tokens"])
        code, answer = ask(url + path, key, body)
        proof.compare(check, 200, code, _message(answer))
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
    for _ in range(SPEED_TRIES if counts else 1):
        code, answer = ask(url + "/completion", key, body)
        timings = answer.get("timings", {}) if isinstance(answer, dict) else {}
        speeds.append(timings.get("predicted_per_second") or 0.0)
        if code != 200 or speeds[-1] >= floor:
            break
    proof.compare("completion", 200, code, _message(answer))
    proof.compare(
        "tokens generated", wanted["tokens"], timings.get("predicted_n"), "decoding stopped early; see the log"
    )
    row["tokens_per_second"] = round(max(speeds), 1)
    if floor and counts:
        cause = f"slower than {why}: something else uses the machine, or the model is not where it was"
        expected, found = f"at least {floor:.1f} tokens/s", f"{max(speeds):.1f} tokens/s"
        proof.add("decode speed", expected, found, max(speeds) >= floor, cause)


def keep(row: dict[str, Any], folder: Folder) -> None:
    """Remember a good proof. ``best_tokens_per_second`` is the best of this model here, so decline can't creep."""
    last = read_json(folder.file("proof.json")) or {}
    best = row["tokens_per_second"]
    if best and (last.get("model") or {}).get("sha256") == (row["model"] or {}).get("sha256"):
        best = max(best, last.get("best_tokens_per_second") or 0)
    write_file(folder.file("proof.json"), to_json({**row, "best_tokens_per_second": best}))


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


def holder(port: int) -> int | None:
    """The process that listens on a TCP port; None where nobody does, or it is another user's."""
    wanted = {f"socket:[{inode}]" for inode in _listening(port)}
    for pid in filter(str.isdigit, os.listdir("/proc")) if wanted else ():
        try:
            links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        if links & wanted:
            return int(pid)
    return None


def listens(port: int) -> bool:
    """Whether any process listens on a TCP port."""
    return bool(_listening(port))


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen on a TCP port."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        listening = "0A"
        inodes |= {row[9] for row in rows if row[3] == listening and int(row[1].rsplit(":", 1)[1], 16) == port}
    return inodes


def free_port() -> int:
    """A TCP port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
