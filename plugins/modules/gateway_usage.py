#!/usr/bin/python
"""Ansible module: the usage of a gateway, added up from its log."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_usage
short_description: Add up the usage of a gateway from its log
description:
  - Reads the log of a gateway's requests, and returns sums by hour, user and model. Changes nothing.
options:
  root:
    description: The folder of the gateway.
    type: path
    required: true
  since:
    description: The moment from which on requests count, in seconds since 1970.
    type: float
    required: true
  until:
    description: The moment before which they count.
    type: float
    required: true
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Add up what was used since November began
  llama.nexus.gateway_usage:
    root: /opt/llama-nexus/gateway
    since: 1793491200
    until: 1796083200
  register: usage
"""
RETURN = r"""
there:
  description: Whether there is a log.
  returned: always
  type: bool
rows:
  description: The sums, a dict for each hour, user and model.
  returned: always
  type: list
bounds_ms:
  description: The upper bounds of the bins of waiting times.
  returned: always
  type: list
damaged:
  description: How many lines of the log of these days are none.
  returned: always
  type: int
"""

import os
from datetime import datetime, timezone

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gateway.errors import GatewayError
from ..module_utils.gateway.request_log import snapshot
from ..module_utils.gateway.usage_sums import BOUNDS_MS, UsageSums
from ..module_utils.hostlib.environment import begin


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "since": {"type": "float", "required": True},
            "until": {"type": "float", "required": True},
        },
        supports_check_mode=True,
    )
    folder = os.path.join(module.params["root"], "log")
    sums = UsageSums(module.params["since"], module.params["until"])
    try:
        day = datetime.fromtimestamp(module.params["since"], timezone.utc).date().isoformat()
        for line in snapshot(folder, day):
            sums.add(line)
    except (GatewayError, ValueError, OverflowError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the log can't be read: {error.strerror}: {error.filename}")
    module.exit_json(
        there=os.path.isdir(folder), rows=sums.rows(), bounds_ms=list(BOUNDS_MS), damaged=sums.damaged
    )  # fmt: skip


if __name__ == "__main__":
    main()
