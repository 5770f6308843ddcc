"""The follower of a gateway's log on its host: as declared, or gone; idempotent. Python 3.9's standard library only."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from ..hostlib.files import read_text, remove_tree, write_file
from ..hostlib.programs import last_lines
from ..service import pids
from ..service.runtimes import Service, Supervisor, Systemd, choose
from .errors import GatewayError

START_SECONDS = 20
FOLDER, PROGRAM = "follower", "follow.py"


def service_of(root: str, python: str) -> Service:
    """The follower as a service; supervisor is in the gateway's environment."""
    folder = os.path.join(root, FOLDER)
    return Service(
        "gateway-follower", "follower", folder, python, log="follower.log", mark=os.path.join(folder, PROGRAM)
    )  # fmt: skip


def present(params: Mapping[str, Any], *, check_mode: bool) -> dict[str, Any]:
    """Have it run as declared; in check mode, say what that takes."""
    root = params["root"]
    service = service_of(root, params["python"])
    chosen, other = choose(service, params["unit"], params["runtime"], variable="gateway_runtime")
    chosen.refuse()
    decides = json.dumps([params["files"], params["unit"], params["keep_days"]], sort_keys=True)
    configuration = hashlib.sha256(decides.encode()).hexdigest()[:16]
    command = [sys.executable, "-I", service.mark, root, str(params["keep_days"]), configuration]
    texts = {os.path.join(service.root, name): text for name, text in params["files"].items()}
    texts[chosen.place()] = chosen.text(command)

    differs = sorted(path for path, text in texts.items() if read_text(path) != text)
    reasons = [f"{path} is not as declared" for path in differs]
    if not (chosen.there() and _runs(service, configuration)):
        reasons.append("the follower does not run as declared")
    if not chosen.boots():
        reasons.append("the follower does not start with the host")
    if other.there():
        reasons.append(f"{other.name} runs one, too")
    result = {"changed": bool(reasons), "reasons": reasons, "runtime": chosen.name}
    if not reasons or check_mode:
        return result
    if other.there():
        other.remove()
    for path in differs:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_file(path, texts[path])
    chosen.start()
    deadline = time.monotonic() + START_SECONDS
    while not (chosen.runs() and _runs(service, configuration)):
        if time.monotonic() > deadline:
            raise GatewayError(
                f"the follower of the log does not run. It said: {last_lines(chosen.log()) or 'nothing'}"
            )
        time.sleep(0.1)
    return result


def _runs(service: Service, configuration: str) -> bool:
    return bool(pids.with_argument(service.mark, configuration))


def absent(root: str, *, check_mode: bool) -> dict[str, Any]:
    """Have nothing of it left."""
    service = service_of(root, os.path.join(root, "env", "bin", "python"))
    runtimes = [runtime for runtime in (Systemd(service, ""), Supervisor(service)) if runtime.there()]
    reasons = [f"{runtime.name} runs a follower" for runtime in runtimes]
    if os.path.isdir(service.root):
        reasons.append(f"{service.root} is there")
    if not check_mode:
        for runtime in runtimes:
            runtime.remove()
        if reasons:
            remove_tree(service.root)
    return {"changed": bool(reasons), "reasons": reasons}
