"""The exporter of telemetry on a host: as declared, or gone; idempotent. Python 3.9's standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from ..hostlib import systemd
from ..hostlib.files import read_text, write_file
from ..hostlib.http_client import open_address
from ..hostlib.programs import last_lines
from . import pids
from .errors import ExporterError
from .runtimes import Runtime, Supervisor, Systemd

START_SECONDS = 20
# NVML takes seconds a GPU to begin with where nothing keeps the driver's state.
ANSWER_SECONDS = 30


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root, host, port = params["root"], params["host"], params["port"]
    chosen, other = _chosen(params)
    chosen.refuse()

    decides = [
        params["files"],
        params["requirements"],
        params["unit"] if chosen.name == "systemd" else "",
        host,
        port,
        chosen.name,
    ]
    configuration = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    # Not -I: it imports what lies beside it, where nobody but the deploying user writes.
    command = [params["python"], "-E", "-s", os.path.join(root, "exporter.py"), "--host", host, "--port", str(port),
               "--configuration", configuration]  # fmt: skip
    texts = {os.path.join(root, name): text for name, text in params["files"].items()}
    texts[chosen.place()] = chosen.text(command)

    before = {path: read_text(path) for path in texts}
    runs = chosen.there() and chosen.runs()
    running = running_configuration(host, port) if runs else None
    reasons = [f"{path} is not as declared" for path, text in sorted(texts.items()) if before[path] != text]
    if not runs:
        reasons.append("the exporter does not run")
    elif running != configuration:
        reasons.append("the exporter was started with another configuration")
    if not chosen.boots():
        reasons.append("the exporter does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    # One of ours that is about to be replaced may have it.
    if not pids.exporters(root, "--port", str(port)) and is_taken(host, port):
        raise ExporterError(f"port {port} of {host} is taken: set telemetry_exporter_port to another")
    url = url_of(host, port)
    result: dict[str, Any] = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name, "url": url}
    place, text = chosen.place(), texts[chosen.place()]
    if before[place] != text:  # the command line is in it, and a hash of everything else
        result["diff"] = {"before_header": place, "after_header": place, "before": before[place] or "", "after": text}
    if not reasons or check_mode:
        return result

    if other.there():
        other.remove()
    os.makedirs(root, mode=0o755, exist_ok=True)
    for path, text in texts.items():
        if before[path] != text:
            write_file(path, text)
    chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while running_configuration(host, port) != configuration or not chosen.runs():
        if time.monotonic() > deadline:
            raise ExporterError(
                f"the exporter does not answer at {url}. It said: {last_lines(chosen.log()) or 'nothing'}"
            )
        time.sleep(0.2)
    return result


def _chosen(params: Mapping[str, Any]) -> tuple[Runtime, Runtime]:
    """The runtime that is to run it, and the one that is not to."""
    by_unit, by_supervisor = Systemd(params["root"], params["unit"]), Supervisor(params["root"], params["python"])
    can_have_unit = systemd.is_pid_1() and os.geteuid() == 0
    wanted = params["runtime"]
    if wanted == "systemd" and not can_have_unit:
        raise ExporterError("systemd does not run here, or not for this user: set telemetry_exporter_runtime to auto")
    if wanted == "systemd" or (wanted == "auto" and can_have_unit):
        return by_unit, by_supervisor
    return by_supervisor, by_unit


def absent(root: str, *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    runtimes: list[Runtime] = [Systemd(root, ""), Supervisor(root, os.path.join(root, "env", "bin", "python"))]
    reasons = [f"{runtime.name} runs an exporter" for runtime in runtimes if runtime.there()]
    if os.path.isdir(root):
        reasons.append(f"{root} is there")
    if reasons and not check_mode:
        for runtime in runtimes:
            if runtime.there():
                runtime.remove()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
    return {"changed": bool(reasons), "reasons": reasons}


def running_configuration(host: str, port: int) -> str | None:
    """The configuration that the exporter which answers there was started with; None where none answers."""
    # Whatever a proxy variable of the user says, this is the host itself.
    direct = [urllib.request.ProxyHandler({})]
    try:
        with open_address(url_of(host, port), timeout=ANSWER_SECONDS, handlers=direct) as answer:
            match = re.search(r'^llama_nexus_exporter_info\{configuration="(\w*)"\}', answer.read().decode(), re.M)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return match[1] if match else None


def url_of(host: str, port: int) -> str:
    """The address of the exporter on its own host."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reached}]:{port}/metrics" if ":" in reached else f"http://{reached}:{port}/metrics"


def is_taken(host: str, port: int) -> bool:
    """True where something listens on the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise ExporterError(
                f"telemetry_exporter_host {host} can't be listened on ({error.strerror}): name an address of this host"
            ) from error
    return False
