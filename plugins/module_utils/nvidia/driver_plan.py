"""The plan (dry run): what is between a host and a driver that serves, in sentences; nothing is changed.

``Plan(settings).made().steps`` says what :mod:`driver_apply` does. Python 3.9's standard library only.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass, field
from typing import Any

from . import driver_state, kernel_modules, repositories, services
from . import facts as nvidia_facts
from .chips import why_not
from .drivers import check_secure_boot, driver_for, mok
from .errors import DriverError
from .installation import Installation
from .packages import Manager, Say, manager_of
from .steps import Step
from .systems import system_of
from .versions import branch_of, of_branch

ARGUMENTS = {  # of the modules, for Settings
    "manage": {"type": "str", "choices": ["auto", "always", "never"], "default": "auto"},
    "required": {"type": "bool", "default": False},
    "upgrade": {"type": "bool", "default": False},
    "branch": {"type": "str", "default": ""},
    "flavour": {"type": "str", "default": ""},
    "repository_url": {"type": "str", "required": True},
    "repository_fingerprint": {"type": "str", "default": ""},
    "reboot": {"type": "bool", "default": False},
}


@dataclass
class Settings:
    """The options of the role."""

    manage: str = "auto"
    required: bool = False
    upgrade: bool = False
    branch: str = ""
    flavour: str = ""
    repository_url: str = ""
    repository_fingerprint: str = ""
    reboot: bool = False


@dataclass
class Plan:
    """The steps from what a host has to a driver that serves."""

    settings: Settings
    seen: nvidia_facts.Seen = field(default_factory=nvidia_facts.look)
    kernel: str = field(default_factory=platform.release)
    container: str | None = field(default_factory=nvidia_facts.container)
    state: dict[str, Any] = field(default_factory=driver_state.read)
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    installation: Installation | None = None

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """Those of the bus that are not given to virtual machines."""
        return [gpu for gpu in self.seen.bus if gpu["bound"] != "vfio-pci"]

    @property
    def unfinished(self) -> bool:
        """True where a run that began was cut short, or waits for a reboot."""
        return self.state.get("phase") == "installing"

    @property
    def ours(self) -> bool:
        """True for a driver that this role installed."""
        return bool(self.state)

    @property
    def disruptive(self) -> bool:
        """True where users of the GPUs have to be stopped first: the driver goes, or the host may be rebooted."""
        return any(step.disruptive or (step.may_reboot and self.settings.reboot) for step in self.steps)

    def made(self) -> Plan:
        """Decide; NvidiaError or DriverError for what can't be."""
        if self.settings.manage == "always" and self.container:
            raise DriverError(
                f"this is a container ({self.container}), which uses the driver of the machine that runs it: install "
                "it there, and leave nvidia_driver_manage at auto"
            )
        serves = bool(self.seen.gpus)
        if not serves and (not self.gpus or self.container or self.settings.manage == "never"):
            if self.settings.required:
                raise DriverError(
                    f"no working NVIDIA GPU: {self.seen.problem}; or set llama_cpp_require_gpu: false for this host to "
                    "serve on the processor"
                )
            self.notes.append(f"no working NVIDIA GPU: {self.seen.problem}")
            return self
        if self.container or self.settings.manage == "never":
            return self
        if serves and len(self.seen.gpus) < len(self.gpus):
            self.notes.append(
                f"nvidia-smi shows {len(self.seen.gpus)} of {len(self.gpus)} GPUs{kernel_modules.kernel_log()}"
            )
        if serves and not self.settings.upgrade and not self.unfinished:
            self._keep()
        else:
            self._get()
        if self.steps and os.geteuid() != 0:
            raise DriverError(
                f"the driver of this host needs work that only root may do ({self.steps[0].text}): set ansible_become: "
                "true, or have root do it"
            )
        return self

    # --- a driver that serves

    def _keep(self) -> None:
        """Leave it alone; but what this role set up stays so, and the compute module is loaded."""
        if self.ours:
            self._settle(again=False)
        if not os.path.exists(kernel_modules.UVM):
            self.steps.append(Step("load nvidia-uvm, without which CUDA has no memory", kernel_modules.load))
            if not kernel_modules.are_loaded_at_boot() and not self.ours:
                self.steps.append(Step("load nvidia and nvidia-uvm at boot", kernel_modules.load_at_boot))

    # --- a driver that is to be had

    def _get(self) -> None:
        installed = nvidia_facts.on_disk(self.kernel)
        broken = self._against(installed) if installed else None
        if installed and not broken and not self.settings.upgrade and not self.unfinished:
            self._settle(again=not self.ours)  # it is installed, and only has to be loaded
            self._add_load(installed)
            return
        if installed and shutil.which("nvidia-uninstall"):
            raise DriverError(
                f"driver {installed.version} was installed by NVIDIA's own installer, beside the packages, and "
                f"{broken or 'is to be replaced'}: run nvidia-uninstall first, then this again"
            )
        os_release, machine = nvidia_facts.os_release(), platform.machine()
        system = system_of(os_release)
        manager = manager_of(system, os_release, machine)
        driver = driver_for(
            system, machine, self.gpus, kernel=self.kernel, kernel_metas=_kernel_metas(manager),
            branch=self.settings.branch, flavour=self.settings.flavour, nvswitch=nvidia_facts.nvswitch(),
        )  # fmt: skip
        suits = (
            installed is not None
            and of_branch(installed.version, driver.branch)
            and installed.flavour == driver.flavour
        )
        follow = manager.candidates(driver.follow) if driver.follow else {}
        lacks = not {*driver.packages, *follow} <= set(manager.installed([*driver.packages, *driver.follow]))
        # Signed modules bring the kernels that they are for, which are held with them.
        moving = driver.packages if driver.dkms else (*driver.packages, *follow)
        newer = manager.newer(moving) if self.settings.upgrade and suits and not lacks else []
        if self.seen.gpus and suits and not newer and not self.unfinished:
            self._keep()  # it was to be replaced, and is the right one
            return
        address = repositories.repository(self.settings.repository_url, system, machine)
        self.installation = Installation(
            driver, manager, address, self.settings.repository_fingerprint, self.kernel,
            may_boot=self.settings.reboot or not self.seen.gpus,
        )  # fmt: skip
        install = bool(newer) or not suits or lacks
        if install:
            check_secure_boot(driver, system, nvidia_facts.secure_boot(mok(system)))
            self.steps += self.installation.steps(installed, newer, in_use=self.seen.loaded is not None)
        self._settle(again=True)
        self._add_load(installed, replaced=install)
        if nvidia_facts.nvswitch():
            self.steps.append(
                Step("start the fabric manager, without which CUDA can't use these GPUs", services.start_fabric_manager)
            )

    def _against(self, installed: nvidia_facts.OnDisk) -> str | None:
        """The reason why the installed driver can't serve the GPUs, whoever installed it; None if it can."""
        branch = branch_of(installed.version)
        reasons = (why_not(branch, installed.flavour, gpu) for gpu in self.gpus)
        return next((f"its {installed.flavour} modules can't serve: {text}" for text in reasons if text), None)

    # --- what makes it last

    def _settle(self, *, again: bool) -> None:
        """Blacklist and initramfs, modules at boot, persistence, hold.

        Args:
            again: also what can't be seen to have been done to the end.
        """
        if not kernel_modules.are_rivals_blacklisted() or again:
            self.steps.append(
                Step("keep nouveau and nova from loading, now and in the initramfs", kernel_modules.blacklist_rivals)
            )
        if not kernel_modules.are_loaded_at_boot():
            self.steps.append(Step("load nvidia and nvidia-uvm at boot", kernel_modules.load_at_boot))
        if (not os.path.exists(services.DROP_IN) or again) and (self.installation or services.has_persistenced()):
            self.steps.append(
                Step(
                    "keep the driver initialized while nothing uses it (nvidia-persistenced)", services.keep_initialized
                )
            )
        if self.installation:
            branch = self.installation.driver.branch
            self.steps.append(Step(f"hold the packages of branch {branch}", self.installation.hold))

    # --- loading

    def _add_load(self, installed: nvidia_facts.OnDisk | None, *, replaced: bool = False) -> None:
        rivals = kernel_modules.loaded_rivals()
        swapped = self.seen.loaded and (replaced or (installed and installed.version != self.seen.loaded))
        text = "load the driver"
        text += f", in place of {' and '.join(rivals)}" if rivals else ""
        text += f", in place of the {self.seen.loaded} that is loaded" if swapped else ""
        after = "; where it can't be unloaded, a reboot is due" if rivals or swapped else ""
        self.steps.append(Step(text + after, self._load, disruptive=bool(swapped), may_reboot=True))

    def _load(self, say: Say) -> None:
        kernel_modules.replace_loaded(self.kernel, say)


def _kernel_metas(manager: Manager) -> list[str]:
    """On Ubuntu and Debian, the installed packages that bring new kernels: ``generic`` of linux-image-generic."""
    if manager.system.manager != "apt":
        return []
    names = manager.installed(["linux-image-*"])
    return sorted(name[len("linux-image-") :] for name in names if re.match(r"linux-image-(?!unsigned-)[a-z]", name))
