#!/usr/bin/python
"""Ansible module: what converging llama-server instances would do, and proof of those that need nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_plan
short_description: Compare declared llama-server instances with what runs
description:
  - Nothing that runs is touched. An instance whose generation is the declared one is proven as it runs; for the others
    the release's own parser reads the command line, and the port must be free.
  - C(changed) says whether M(llama_server_converge) has something to do.
extends_documentation_fragment: [llama.nexus.llama_server.places, llama.nexus.llama_server.declared]
notes:
  - An instance that can't be proven does not fail the module; C(wrong) says what is to be said about it.
author: Llama Nexus
"""
EXAMPLES = r"""
- name: See what is to be done
  llama.nexus.llama_server_plan:
    root: /opt/llama-nexus/instances
    logs: /opt/llama-nexus/logs
    instances: "{{ __llama_server_declared }}"
    keys: "{{ __llama_server_keys }}"
    launcher: "{{ lookup('ansible.builtin.file', 'launch.py') }}"
    unit: "{{ lookup('ansible.builtin.template', 'llama-server@.service.j2') }}"
    user: llama-server
"""
RETURN = r"""
instances:
  description: A row an instance, with C(name), C(state), C(changed), C(reason) and, where it was proven, C(checks).
  returned: always
  type: list
names:
  description: The instances that M(llama_server_converge) would change.
  returned: always
  type: list
wrong:
  description: What can't be proven, for people; empty where all is well.
  returned: always
  type: str
releases:
  description: The folders of the releases that an instance of this host may start or go back to.
  returned: always
  type: list
runtimes:
  description: The runtimes that the declared instances use on this host.
  returned: always
  type: list
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.terminal_text import all_plain, plain
from ..module_utils.llama_server.difference import difference
from ..module_utils.llama_server.errors import HostError
from ..module_utils.llama_server.failures import failure_message
from ..module_utils.llama_server.folder import used_releases
from ..module_utils.llama_server.host import ARGUMENTS, host_of
from ..module_utils.llama_server.plan import plan


def main() -> None:
    begin()
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        host = host_of(module.params)
        rows = all_plain(plan(host, remember=not module.check_mode))
        diff = difference(host) if module._diff else {}
    except HostError as error:
        module.fail_json(msg=plain(str(error)))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")
    result = {
        "instances": rows,
        "names": [row["name"] for row in rows if row["changed"] and row["state"] == "planned"],
        "runtimes": sorted({declaration.config.runtime for declaration in host.declared.values()}),
        "releases": used_releases(host.root),
        "diff": diff,
        "wrong": failure_message(rows),
    }
    for row in rows:
        if row["state"] == "undeclared" and not row["changed"]:
            module.warn(
                f"instance {row['name']} runs here and is not declared: declare it, or set llama_server_prune: true to "
                "stop it"
            )
    module.exit_json(changed=any(row["changed"] for row in rows), **result)


if __name__ == "__main__":
    main()
