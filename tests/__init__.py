"""The project's tests. What Ansible brings to a host beside its modules can be imported in them as there."""

from pathlib import Path

import ansible.module_utils

_ROOT = Path(__file__).resolve().parent.parent
SHARED = sorted(map(str, [*_ROOT.glob("roles/*/module_utils"), _ROOT / "plugins" / "module_utils"]))
ansible.module_utils.__path__ += SHARED
