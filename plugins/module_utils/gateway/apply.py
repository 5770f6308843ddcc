"""A gateway on its host: as declared, or gone; idempotent. Python 3.9's standard library only.

A configuration is checked before it replaces the one that runs, and one that HAProxy does not come up with gives way to
the one before. What runs is reloaded, so that open streams go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..hostlib.files import read_json, read_text, remove_tree, write_file
from ..hostlib.programs import last_lines
from ..service.ports import connect, is_taken
from ..service.runtimes import Runtime, Service, Supervisor, Systemd, choose
from . import haproxy
from .errors import GatewayError
from .runtime_api import RuntimeApi
from .states import MASTER_SOCKET, kept_out, wait_for_held

START_SECONDS = 20
REACH_SECONDS = 3
# Buffers of two megabytes would be given back to the kernel with each request, and come back as empty pages: 3 ms of
# processor time a request. So glibc keeps them.
ENVIRONMENT = ("MALLOC_TRIM_THRESHOLD_=1073741824", "MALLOC_MMAP_THRESHOLD_=1073741824")
FOLDERS = ("log", "run", "hosts", "tls")
OPEN_FOLDER = "peers"  # that a worker, who is not root, gets through to the socket in it
CONFIGURATION = "haproxy.cfg"
WITH_ROOT = (CONFIGURATION, "www/front.html", "www/status.json")  # in which @ROOT@ is filled in
VARIABLE = "LLAMA_NEXUS_CONFIGURATION"  # of the process, by which it tells what it runs
BIND = re.compile(r"^    bind .*:(\d+)(?: .*)?$", re.MULTILINE)


def service_of(root: str) -> Service:
    """The gateway as a service; each of its processes names its configuration, supervisor is in its environment."""
    python = os.path.join(root, "env", "bin", "python")
    return Service("gateway", "gateway", root, python, log="haproxy.log", mark=os.path.join(root, CONFIGURATION))


def socket_of(root: str) -> str:
    """The socket of the runtime API."""
    return os.path.join(root, "run", "admin.sock")


def known_rows(root: str) -> list[dict[str, Any]]:
    """The rows of hosts that deployments before left here."""
    folder = os.path.join(root, "hosts")
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    rows = [read_json(os.path.join(folder, name)) for name in names if name.endswith(".json")]
    return [row for row in rows if row]


def known_certificates(root: str) -> dict[str, str]:
    """The files of certificates and keys that are there, by their place."""
    texts = {f"tls/{name}": read_text(os.path.join(root, "tls", name)) for name in _listed(os.path.join(root, "tls"))}
    return {name: text for name, text in texts.items() if text is not None}


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root = params["root"]
    service = service_of(root)
    chosen, other = choose(service, params["unit"], params["runtime"], variable="gateway_runtime")
    chosen.refuse()
    program = haproxy.find()
    if program is not None or not (check_mode and os.geteuid() == 0):  # a check installs none
        program = haproxy.refuse(program)
    texts, configuration = texts_of(params)
    place, text = chosen.place(), chosen.text(_command(chosen, program or "haproxy", root))
    texts[place] = text

    before = {path: read_text(path) for path in texts}
    differs = sorted(path for path in texts if before[path] != texts[path])
    gone = [path for path in kept_files(root) if path not in texts]
    runs = chosen.there() and chosen.runs()
    reasons = [f"{path} is not as declared" for path in differs] + [f"{path} is no longer declared" for path in gone]
    if not runs:
        reasons.append("the gateway does not run")
    elif running_configuration(root) != configuration:
        reasons.append("the gateway was started with another configuration")
    if not chosen.boots():
        reasons.append("the gateway does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    _refuse_taken(params, before[os.path.join(root, CONFIGURATION)] if runs else None)
    result: dict[str, Any] = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name, "unreached": []}
    main = os.path.join(root, CONFIGURATION)
    if before[main] != texts[main]:
        result["diff"] = {
            "before_header": main,
            "after_header": main,
            "before": before[main] or "",
            "after": texts[main],
        }
    if program is not None and differs:
        _refuse_invalid(program, params, root)
    if not check_mode and reasons:
        if runs:
            wait_for_held(root, params["hold_timeout"])
        if other.there():
            other.remove()
        _have_folders(root)
        _have_kept(root, params["kept"])
        try:
            _write(root, texts, before, differs, gone)
            with kept_out(root, params["servers"]):
                _run(chosen, runs and place not in differs and not other.there(), root, configuration)
        except (GatewayError, OSError):
            _restore(before, chosen, runs)
            raise
    if not check_mode:
        result["unreached"] = unreached(params["servers"], params["serving"])
    return result


def texts_of(params: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """The texts of all files by path, and the hash by which the process tells that it runs them."""
    root = params["root"]
    decides = {**params["files"], **params["secrets"]}
    configuration = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    texts = {os.path.join(root, name): text for name, text in _filled(decides, root, configuration).items()}
    for row in json.loads(params["rows"]):
        texts[os.path.join(root, "hosts", f"{row['host']}.json")] = json.dumps(row, indent=2, sort_keys=True) + "\n"
    return texts, configuration


def _filled(files: Mapping[str, str], root: str, configuration: str) -> dict[str, str]:
    """The files with their folder, and the configuration's name in the main one."""
    filled = {name: text.replace("@ROOT@", root) if name in WITH_ROOT else text for name, text in files.items()}
    return {**filled, CONFIGURATION: filled[CONFIGURATION].replace("@CONFIGURATION@", configuration)}


def kept_files(root: str) -> list[str]:
    """The files of hosts that are there."""
    folder = os.path.join(root, "hosts")
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder))] if os.path.isdir(folder) else []


def _command(runtime: Runtime, program: str, root: str) -> list[str]:
    """The command line. Requests are logged to stdout, which is the log's own file.

    HAProxy takes from its stdout that it appends, and would write over the log's beginning: what is written before
    leaves it at the end. The unit does the same.
    """
    main, master = os.path.join(root, CONFIGURATION), f"{os.path.join(root, MASTER_SOCKET)},mode,600"
    if runtime.name == "systemd":
        return [program, "-Ws", "-f", main, "-S", master]
    shell = f'export {" ".join(ENVIRONMENT)}; exec >>"$3"; echo; exec "$1" -W -f "$2" -S "$4"'
    return ["/bin/sh", "-c", shell, "sh", program, main, os.path.join(root, "log", "requests.jsonl"), master]


def _refuse_taken(params: Mapping[str, Any], running: str | None) -> None:
    """Stop where something else has the port."""
    port = params["port"]
    ours = BIND.search(running or "")
    if ours and int(ours[1]) == port:
        return
    if is_taken(params["host"], port, variable="gateway_host"):
        raise GatewayError(f"port {port} of {params['host']} is taken: set gateway_port to another, or end what has it")


def _refuse_invalid(program: str, params: Mapping[str, Any], root: str) -> None:
    """Stop where HAProxy does not take the files, which lie in a folder of their own for that."""
    draft = f"{root}.draft"
    remove_tree(draft)
    try:
        made = {**params["files"], **params["secrets"], "run/hold.map": ""}
        for name, text in _filled(made, draft, "draft").items():
            path = os.path.join(draft, name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            write_file(path, text, mode=0o600, durable=False)
        _have_kept(draft, params["kept"])
        problem = haproxy.check(program, os.path.join(draft, CONFIGURATION))
    finally:
        remove_tree(draft)
    if problem:
        raise GatewayError(f"HAProxy does not take the configuration, and what runs goes on: {problem}")


def _have_kept(root: str, names: Sequence[str]) -> None:
    """Have maps that others fill be there, if need be empty: HAProxy does not start without them."""
    for name in names:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def _have_folders(root: str) -> None:
    os.makedirs(root, mode=0o755, exist_ok=True)
    for name in FOLDERS:
        os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)
    os.makedirs(os.path.join(root, OPEN_FOLDER), exist_ok=True)
    os.chmod(os.path.join(root, OPEN_FOLDER), 0o711)  # noqa: S103 - what is in it has modes of its own
    for name in ("log/requests.jsonl", "run/hold.map"):
        os.close(os.open(os.path.join(root, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))


def _write(
    root: str, texts: Mapping[str, str], before: Mapping[str, str | None], differs: Sequence[str], gone: Sequence[str]
) -> None:
    for path in differs:
        if path.startswith(root):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_file(path, texts[path], mode=0o600 if path.startswith(root) else 0o644)
    for path in gone:
        os.unlink(path)


def _restore(before: Mapping[str, str | None], chosen: Runtime, ran: bool) -> None:
    """Put back what was there. What ran has gone on; one that did not run is left for the next deployment."""
    for path, text in before.items():
        if text is not None and read_text(path) != text:
            with contextlib.suppress(OSError):
                write_file(path, text, mode=0o600)
    if not ran:
        return
    pid = chosen.main_pid()
    if pid:
        os.kill(pid, signal.SIGUSR2)


def _run(chosen: Runtime, reload: bool, root: str, configuration: str) -> None:
    """Have the process run the configuration: by a reload, under which streams go on, or a start."""
    chosen.settle()
    pid = chosen.main_pid() if reload else 0
    if pid:
        os.kill(pid, signal.SIGUSR2)
    elif running_configuration(root) != configuration or not chosen.runs():
        chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while running_configuration(root) != configuration or not chosen.runs():
        if time.monotonic() > deadline:
            raise GatewayError(
                f"HAProxy does not come up with the new configuration. It said: {last_lines(chosen.log()) or 'nothing'}"
            )
        time.sleep(0.1)


def running_configuration(root: str) -> str | None:
    """The name of the configuration that the process which answers has; None where none answers."""
    try:
        said = RuntimeApi(socket_of(root)).command(f"show env {VARIABLE}")
    except GatewayError:
        return None
    return said.strip().partition("=")[2] or None


def unreached(servers: Sequence[Mapping[str, Any]], serving: Sequence[str] = ()) -> list[str]:
    """The servers that take no connection from here, one line each, with what to do.

    Args:
        serving: the names of those that run as they were proven: what refuses a connection to one is no server.
    """
    lines = []
    for server in servers:
        address, port = server["address"].strip("[]"), server["port"]
        try:
            connect(address, port, REACH_SECONDS)
        except OSError as error:
            if isinstance(error, ConnectionRefusedError) and server["name"] not in serving:
                continue  # the host is reached; whether the instance runs is a matter of its proof
            lines.append(
                f"the gateway does not reach {server['host']}/{server['instance']} at {server['address']}:{port} "
                f"({error.strerror or error}): open port {port} of {server['host']} to it"
            )
    return list(dict.fromkeys(lines))


def absent(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left, but for the log of requests."""
    root, service = params["root"], service_of(params["root"])
    runtimes = (Systemd(service, ""), Supervisor(service))
    reasons = [f"{runtime.name} runs a gateway" for runtime in runtimes if runtime.there()]
    left = [name for name in _listed(root) if name != "log"]
    if left:
        reasons.append(f"{root} is there")
    if reasons and not check_mode:
        for runtime in runtimes:
            if runtime.there():
                runtime.remove()
        for name in left:
            remove_tree(os.path.join(root, name))
        if not _listed(os.path.join(root, "log")):
            shutil.rmtree(root, ignore_errors=True)
    return {"changed": bool(reasons), "reasons": reasons}


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
