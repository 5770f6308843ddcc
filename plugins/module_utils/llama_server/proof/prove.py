"""Verification (*proof*) that a llama-server is what was declared: identity, context, placement, keys and speed.

/health answers 200 for a server with the wrong model, without its GPU, or from an older run. Each check here compares
something declared with something found, and names the likely cause where they differ.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable
from typing import Any

from ...hostlib.instances import Instance
from ...hostlib.pids import argv_of
from ..client import Hidden, Server, Stranger, Unanswered
from ..errors import HostError
from ..folder import Folder
from ..runtimes.base import RuntimeView
from .checks import Checks
from .decode import prove_answer, prove_decode
from .identity import prove_context, prove_identity, prove_keys, prove_model_file
from .placement import prove_placement
from .readiness import LOG_LINES, NotProven, wait_until_loaded
from .router import prove_router
from .subject import Subject
from .template import CHECK as PROMPT
from .template import prove_prompt, prove_template


def prove(
    config: Instance,
    wanted: dict[str, Any],
    runtime: RuntimeView,
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
    checks = Checks()
    row = _empty_row(config, checks)
    why: list[str] = []
    restart = True
    server = Server(config, None)
    try:
        server, seconds = wait_until_loaded(config, runtime, wanted["start_timeout"], progress)
        row["load_seconds"] = round(seconds, 2)
        row["answered"] = time.monotonic()
        progress(f"{config.name}: proving")
        status = runtime.status(config.name)
        # It may have died and been started again.
        asked = server if status.pid == server.pid else Server(config, status.pid)
        subject = Subject(config, wanted, runtime, folder, asked, status, checks, row)
        _check(subject, speed_counts=speed_counts, load=load)
    except NotProven as error:
        why, restart = [str(error)], error.restart
    except Hidden as error:
        why, restart = [str(error)], False
    except HostError as error:
        why = [str(error)]
    except Unanswered as error:
        why, restart = [f"{error} ({config.local_url}): the log says what it does"], error.idle
    except (OSError, http.client.HTTPException) as error:
        why = [f"it stopped answering at {config.local_url} ({error}): the log says why"]
        # One that only hung up on this request still has its users'.
        restart = isinstance(error, ConnectionRefusedError) or not server.is_alive()
    _conclude(row, [*checks.failures(), *why], restart=bool(why) and restart)
    if row["error"] is not None:
        with contextlib.suppress(HostError):  # a runtime that does not answer has been told already
            row["log_tail"] = runtime.log(config.name, LOG_LINES)
            row["log"] = runtime.where_log(config.name)
    return row


def _empty_row(config: Instance, checks: Checks) -> dict[str, Any]:
    """The row of a proof in which nothing was found yet."""
    return {
        "name": config.name, "generation": config.id, "runtime": config.runtime, "url": config.local_url,
        "release": config.release.name, "model": config.model_as_json(), "checks": checks.rows, "error": None,
        "tokens_per_second": None, "n_ctx": None, "slots": None, "slots_by_model": {}, "pid": None,
        "offloaded": None, "buffers_mib": {}, "gpu_processes_mib": None, "placements": {}, "memory": [],
        "load_seconds": None, "build": None, "answered": None, "restart": False,
    }  # fmt: skip


def _conclude(row: dict[str, Any], failed: list[str], *, restart: bool) -> None:
    """Complete the row with what failed; ``restart`` says whether a new start may mend what ended the checks."""
    if failed:
        lasting = ("decode speed", PROMPT)
        row["restart"] = restart or any(
            not (check["ok"] or check["check"].endswith(lasting)) for check in row["checks"]
        )
        row["error"] = "; ".join(failed)


def _check(subject: Subject, *, speed_counts: bool, load: bool) -> None:
    """All checks that apply to the instance, in their order."""
    config, server, status, checks = subject.config, subject.server, subject.status, subject.checks
    subject.row["pid"] = status.pid
    argv = list(status.argv) if status.argv else argv_of(status.pid or 0)
    checks.compare("command line", list(config.argv), argv, "an older server is still running; deploy again")
    try:
        if server.is_listening():  # else the descriptors of another user's process can't be read
            checks.add("listens", status.pid, status.pid, True, "")
    except Stranger as error:
        checks.add("listens", status.pid, error.who, False, str(error))
        return  # nothing more is said to a stranger; the runtime's own process is asked on, whatever its command line
    subject.key = prove_keys(subject)
    prove_model_file(subject)
    if config.mode == "router":
        prove_router(subject, load=load)
        return
    props = prove_identity(subject)
    prove_context(subject, props)
    if config.has_template:
        prove_template(subject, props)
    if config.mode == "completion":
        prove_prompt(subject)
    prove_placement(subject)
    if config.mode in ("embedding", "reranking"):
        prove_answer(subject)
    else:
        prove_decode(subject, speed_counts=speed_counts)
