#!/usr/bin/python
"""Ansible module: what of a gateway's servers gets requests."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_servers
short_description: Drain servers at a gateway, take them back, or look at them
description:
  - Speaks with the HAProxy that runs on this host; nothing is written to disk, and it is not loaded anew.
  - C(drain) waits for the requests that servers have, for C(wait_s) seconds at most. An action plugin of the same name
    calls it again and again up to C(timeout) seconds, and says meanwhile what is waited for.
options:
  folder:
    description: The gateway's folder. Where there is no gateway yet, nothing is done.
    type: path
    required: true
  action:
    description: What to do. C(drain) has requests wait where a model has no other server, C(refuse) refuses them.
    choices: [drain, refuse, take_back, look]
    type: str
    required: true
  servers:
    description:
      - By the name of a server what of it was proven, C(port) and C(slots), for C(take_back); either may be absent.
      - Those that the gateway does not have are left out.
    type: dict
    default: {}
  timeout:
    description: How many seconds a drain may take. Read by the action plugin.
    type: int
    default: 30
  min_age_s:
    description: With C(take_back), servers that were drained less seconds ago stay out. A run may be at work on them.
    type: int
    default: 0
  wait_s:
    description: For how many seconds this call of a drain waits.
    type: float
    default: 5
  last:
    description: Whether this is the last call of a drain.
    type: bool
    default: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the gateway send nothing more to this host
  llama.nexus.gateway_servers:
    folder: /opt/llama-nexus/gateway
    action: drain
    servers: {rig-1_main: {}}
  delegate_to: gate-1
"""
RETURN = r"""
state:
  description: C(absent) where no gateway is deployed here, C(down) where its HAProxy does not run, else C(running).
  returned: always
  type: str
servers:
  description: A row a server of each backend, with backend, name, state, sessions and queued; for C(look) all of them.
  returned: always
  type: list
open_requests:
  description: How many requests the drained servers still have.
  returned: for drain and refuse
  type: int
done:
  description: Whether the servers were drained.
  returned: for drain and refuse
  type: bool
waited_s:
  description: By backend for how many seconds its requests waited for a server.
  returned: for take_back
  type: dict
why:
  description: What HAProxy's socket says.
  returned: where state is down
  type: str
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gateway.errors import GatewayDown, GatewayError
from ..module_utils.gateway.runtime_api import OldWorkers, RuntimeApi
from ..module_utils.gateway.states import HOLD_MAP, MASTER_SOCKET, SOCKET, keep_places
from ..module_utils.gateway.traffic import Drain, Place, rows, take_back, would_change
from ..module_utils.hostlib.environment import begin


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "action": {"type": "str", "choices": ["drain", "refuse", "take_back", "look"], "required": True},
            "servers": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 30},
            "min_age_s": {"type": "int", "default": 0},
            "wait_s": {"type": "float", "default": 5},
            "last": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    folder = module.params["folder"]
    if not os.path.isfile(os.path.join(folder, "haproxy.cfg")):
        module.exit_json(changed=False, state="absent", servers=[], done=True, open_requests=0, waited_s={})
    try:
        result = done(module.params, module.check_mode)
    except GatewayDown as error:
        module.exit_json(
            changed=False, state="down", servers=[], done=True, open_requests=0, waited_s={}, why=str(error)
        )
    except GatewayError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    module.exit_json(state="running", **result)


def done(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The result of an action."""
    folder, servers = params["folder"], params["servers"]
    api, held = RuntimeApi(os.path.join(folder, SOCKET)), os.path.join(folder, HOLD_MAP)
    if params["action"] == "look":
        return {"changed": False, "servers": rows(api)}
    if params["action"] == "take_back":
        places = {name: Place(place.get("port"), place.get("slots")) for name, place in servers.items()}
        if check_mode:
            return {"changed": would_change(api, places), "servers": rows(api, servers), "waited_s": {}}
        back = take_back(api, held, places, params["min_age_s"])
        if back.changed:
            keep_places(folder)
        return {"changed": back.changed, "servers": rows(api, servers), "waited_s": back.waited_s}
    old = OldWorkers(os.path.join(folder, MASTER_SOCKET))
    drain = Drain(api, held, list(servers), hold=params["action"] == "drain", old=old)
    if check_mode:
        return {"changed": drain.would_change(), "servers": rows(api, servers), "done": True, "open_requests": 0}
    progress = drain.go_on(params["wait_s"], last=params["last"])
    return {
        "changed": drain.changed,
        "servers": rows(api, servers),
        "done": progress.done,
        "open_requests": progress.open_requests,
    }


if __name__ == "__main__":
    main()
