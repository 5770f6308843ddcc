"""Ansible action: module gateway_servers on a gateway, again and again until its drain is done, with what it waits for.

    - name: Drain
      llama.nexus.gateway_servers: {folder: /opt/llama-nexus/gateway, action: drain, servers: {rig-1_main: {}}}
      delegate_to: gate-1

The result has ``seconds``, and ``warnings`` where requests were left, where they had to wait, or where the gateway does
not run. A gateway that can't be reached is an error: it may well send requests to what is about to be stopped.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..plugin_utils.gateway.traffic import unreachable
from .follow import elapsed

display = Display()

CALL_S = 5.0  # of one call of the module: a line of progress for each


class ActionModule(ActionBase):
    """See the module docstring."""

    _requires_connection = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        host = (task_vars or {})["inventory_hostname"]
        gateway = str(self._task.delegate_to or host)
        limit = float(args.get("timeout", 30))
        started, changed = time.monotonic(), False
        while True:
            left = limit - (time.monotonic() - started)
            call = {**args, "wait_s": max(min(left, CALL_S), 0), "last": left <= CALL_S}
            try:
                result: dict[str, Any] = self._execute_module(module_args=call, task_vars=task_vars)
            except AnsibleConnectionFailure as error:
                return {"failed": True, "msg": unreachable([{"gateway_name": gateway, "msg": str(error)}])}
            changed |= bool(result.get("changed"))
            seconds = time.monotonic() - started
            if result.get("failed"):
                return {**result, "msg": f"gateway {gateway}: {result.get('msg')}"}
            if result.get("done", True) or call["last"]:
                break
            open_requests = result["open_requests"]
            display.display(f"  {host}  {elapsed(seconds):>7}  {waits_for(gateway, open_requests, seconds, limit)}")
        if args.get("action") in ("drain", "refuse") and result.get("state") == "running":
            left = result["open_requests"]
            what = f"{left} requests are still open" if left else "drained"
            display.display(f"  {host}  {elapsed(seconds):>7}  gateway {gateway}: {what} after {seconds:.1f} s")
        told = remarks(gateway, result)
        warnings = [*result.pop("warnings", []), *told]
        return {
            **result,
            "changed": changed,
            "seconds": round(seconds, 1),
            **({"warnings": warnings} if warnings else {}),
        }


def waits_for(gateway: str, requests: int, seconds: float, limit: float) -> str:
    """The line of progress."""
    return f"gateway {gateway}: waiting for {requests} requests, {seconds:.0f} of {limit:.0f} s"


def remarks(gateway: str, result: dict[str, Any]) -> list[str]:
    """The lines that people have to see."""
    lines = []
    if result.get("state") == "down":
        lines.append(
            f"gateway {gateway} is down, nothing gets through it: nox -s deploy -- -l {gateway} ({result['why']})"
        )
    if not result.get("done", True):
        left = result["open_requests"]
        lines.append(f"gateway {gateway}: {left} requests were still open when llama_server_drain_timeout was up")
    for backend, seconds in sorted(result.get("waited_s", {}).items()):
        lines.append(f"gateway {gateway}: requests for {backend} waited up to {seconds} s, it had no other server")
    return lines
