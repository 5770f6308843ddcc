#!/usr/bin/python
"""Ansible module: the users of a gateway, as declared, without loading it anew."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gateway_users
short_description: Have a gateway's users as declared
description:
  - Writes the maps by which HAProxy knows users, with mode 0600, and tells a running one what is new and what is gone.
    New keys count at once, and withdrawn ones no longer; no request under way ends.
options:
  root:
    description: The folder of the gateway.
    type: path
    required: true
  maps:
    description: The maps by their place below that folder, each with its values by key.
    type: dict
    required: true
  token_limits:
    description: The tokens that users have a day, for those that have a limit.
    type: dict
    default: {}
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have its users as declared
  llama.nexus.gateway_users:
    root: /opt/llama-nexus/gateway
    maps: "{{ gateway_users | llama.nexus.gateway_user_maps }}"
    token_limits: "{{ gateway_users | llama.nexus.gateway_token_limits }}"
  no_log: true
"""
RETURN = r"""
files:
  description: The files that were not as declared.
  returned: always
  type: list
live:
  description: The maps of a running HAProxy that were not.
  returned: always
  type: list
mended:
  description: The files that others could read.
  returned: always
  type: list
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.gateway.errors import GatewayError
from ..module_utils.gateway.users import apply
from ..module_utils.hostlib.environment import begin


def main() -> None:
    begin()
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "maps": {"type": "dict", "required": True, "no_log": True},
            "token_limits": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        changes = apply(
            module.params["root"], module.params["maps"], module.params["token_limits"], check_mode=module.check_mode
        )
    except GatewayError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"the users' files can't be had: {error.strerror}: {error.filename}")
    for place in changes.mended:
        module.warn(
            f"{module.params['root']}/{place} could be read by others of the host, and is its owner's alone now: find "
            "out what opened it, and draw new keys where somebody may have read it"
        )
    module.exit_json(
        changed=bool(changes.files or changes.live or changes.mended),
        files=changes.files,
        live=changes.live,
        mended=changes.mended,
    )


if __name__ == "__main__":
    main()
