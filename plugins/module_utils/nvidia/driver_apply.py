"""Applies the plan of a driver, step by step, and verifies that the driver serves.

``apply(settings, say)`` is idempotent, and can be killed and run again. Python 3.9's standard library only.
"""

from __future__ import annotations

import os
from typing import Any

from . import driver_state
from . import facts as nvidia_facts
from .driver_plan import Plan, Settings
from .errors import DriverError, RebootDue
from .kernel_modules import UVM, kernel_log
from .packages import Say
from .versions import of_branch


def apply(settings: Settings, say: Say, *, rebooted: bool = False) -> dict[str, Any]:
    """Do what the plan says, and prove it.

    Returns ``done`` (sentences), ``reboot`` (why one is due; empty where none is), ``gpus`` and ``driver``.
    DriverError where it can't be done; NvidiaError where it can't be.
    """
    with driver_state.alone(say):
        plan = Plan(settings).made()
        done: list[str] = []
        if not plan.steps:
            return _result(done, plan.seen)
        for step in plan.steps:
            say(step.text)
            try:
                step.do(say)
            except RebootDue as due:
                if rebooted:
                    raise DriverError(f"after a reboot still {due}") from due
                return {**_result(done, plan.seen), "reboot": str(due)}
            done.append(step.text)
        say("see whether the driver serves")
        now = verify(plan)
        if plan.installation:
            driver_state.write("installed", plan.installation.driver)
        return _result(done, now)


def verify(plan: Plan) -> nvidia_facts.Seen:
    """Verify the driver: the facts as they are now; DriverError unless nvidia-smi shows every GPU of the bus, by it."""
    now = nvidia_facts.look()
    there = [gpu for gpu in now.bus if gpu["bound"] != "vfio-pci"]
    if now.problem or len(now.gpus) < len(there):
        reason = now.problem or f"nvidia-smi shows {len(now.gpus)} of the {len(there)} GPUs on the PCI bus"
        raise DriverError(f"the driver does not serve: {reason}{kernel_log()}")
    version, wanted = now.gpus[0]["driver"], plan.installation.driver.branch if plan.installation else ""
    if wanted and not of_branch(version, wanted):
        raise DriverError(f"driver {version} serves, and branch {wanted} was installed: reboot the host")
    if not os.path.exists(UVM):
        raise DriverError(f"nvidia-smi works, but {UVM} is not there, which CUDA needs: modprobe nvidia-uvm says why")
    return now


def _result(done: list[str], seen: nvidia_facts.Seen) -> dict[str, Any]:
    return {"done": done, "reboot": "", "gpus": seen.gpus, "driver": seen.gpus[0]["driver"] if seen.gpus else None}
