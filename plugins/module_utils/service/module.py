"""Arguments, documented in plugins/doc_fragments/service.py, and the main program of modules of services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..hostlib.environment import begin
from ..hostlib.files import reason_of
from .errors import ServiceError

ARGUMENTS: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "runtime": {"type": "str", "choices": ["auto", "systemd", "supervisor"], "default": "auto"},
    "files": {"type": "dict", "default": {}},
    "unit": {"type": "str"},
}


def run_module(
    present: Callable[..., dict[str, Any]],
    absent: Callable[..., dict[str, Any]],
    arguments: Mapping[str, Any],
    *errors: type[Exception],
) -> None:
    """Be the module: ``present`` or ``absent`` is called with its parameters and ``check_mode``.

    Args:
        arguments: those that the service has beside ``ARGUMENTS``; what has no default is required for ``present``.
        errors: those beside ServiceError whose text says what is wrong and what to do.
    """
    begin()
    told: tuple[type[Exception], ...] = (ServiceError, *errors)
    required = [name for name, option in arguments.items() if "default" not in option]
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, **arguments},
        required_if=[("state", "present", ["files", "unit", *required])],
        supports_check_mode=True,
    )
    change = present if module.params["state"] == "present" else absent
    try:
        result = change(module.params, check_mode=module.check_mode)
    except told as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=reason_of(error))
    module.exit_json(**result)
