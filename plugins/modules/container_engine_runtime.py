#!/usr/bin/python
"""Ansible module: the runtime of NVIDIA's toolkit in the configuration of the Docker engine, without a restart."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_engine_runtime
short_description: Have the Docker engine know the runtime nvidia
description:
  - Adds the runtime to the engine's daemon.json and keeps all else. A file that the engine could not read is refused.
  - The engine reads the file again by a reload. Containers go on running.
  - nvidia-ctk would write the file anew on each run, changed or not.
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Have the engine know the runtime
  llama.nexus.container_engine_runtime:
"""
RETURN = r"""
path:
  description: The engine's configuration file.
  returned: always
  type: str
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.container_engine.decisions import RUNTIME, ConfigurationError, with_runtime
from ..module_utils.container_engine.engine import EngineError, configuration_path, engine_info, reload
from ..module_utils.hostlib.environment import begin
from ..module_utils.hostlib.files import read_text


def main() -> None:
    begin()
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    path = configuration_path()
    before = read_text(path)
    known = RUNTIME in (engine_info().get("Runtimes") or {})
    try:
        after = before if known else with_runtime(before, path)  # it may be known from a flag
        if not module.check_mode and after is not None and after != before:
            os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=module.tmpdir, delete=False, encoding="utf-8") as stream:
                stream.write(after)
            module.atomic_move(stream.name, path, keep_dest_attrs=True)
            if before is None:
                os.chmod(path, 0o644)
        if not module.check_mode and not known:
            reload()
    except (ConfigurationError, EngineError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{path} can't be written: {error.strerror}")
    diff = {"before": before or "", "after": after or "", "before_header": path, "after_header": path}
    module.exit_json(changed=not known, path=path, diff=diff if after != before else {})


if __name__ == "__main__":
    main()
