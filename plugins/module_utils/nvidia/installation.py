"""A driver that comes from packages: repository, branch, packages for the running kernel and those to come, hold.

Python 3.9's standard library only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from . import driver_state
from .drivers import Driver
from .errors import DriverError
from .facts import OnDisk
from .packages import Apt, Manager, Say
from .repositories import signer
from .steps import Step
from .versions import of_branch


@dataclass
class Installation:
    """A driver that is to come from packages."""

    driver: Driver
    manager: Manager
    address: str
    fingerprint: str
    """The setting of the repository's key; empty for NVIDIA's."""
    kernel: str
    may_boot: bool
    """True where the driver may be one that serves only after a boot: none serves now, or a reboot is allowed."""

    def steps(self, installed: OnDisk | None, newer: list[str], *, in_use: bool) -> list[Step]:
        """The steps that come before the driver can be loaded."""
        driver, manager, steps = self.driver, self.manager, []
        if components := manager.components_due(driver.components):
            steps.append(Step(f"enable {', '.join(components)}", lambda say: manager.add_components(components)))
        if driver.source == "nvidia" and manager.repository_due(self.address, driver=True):
            signer(self.address, manager.system, self.fingerprint)  # what is not known is told before anything is done
            steps.append(Step(f"add NVIDIA's repository {self.address}", self.add_repository))
        names = " ".join((*driver.pin, *driver.packages, *driver.follow))
        verb = "update" if newer else "replace" if installed else "install"
        of = f" (now {installed.version}, {installed.flavour})" if installed else ""
        steps.append(Step(f"{verb} {driver}{of}: {names}", self.install, disruptive=in_use))
        return steps

    def add_repository(self, say: Say) -> None:
        """Add NVIDIA's."""
        self.manager.add_repository(self.address, self.fingerprint, driver=True)

    def install(self, say: Say) -> None:
        """Pin the branch, look what would come, and install it."""
        driver, manager = self.driver, self.manager
        manager.unfinished(say)
        refresh_errors = manager.refresh(say)
        if driver.source == "nvidia":
            self.need(driver.pin if manager.system.manager == "apt" else (), refresh_errors)
            manager.pin(driver, say)
        candidates = self.need(driver.packages, refresh_errors)
        wrong = [f"{name} {version}" for name, version in candidates.items() if not of_branch(version, driver.branch)]
        if wrong:
            raise DriverError(
                f"branch {driver.branch} is pinned, and yet {', '.join(wrong)} would be installed: another setting of "
                "the package manager wins; nothing was installed"
            )
        names = [*self.for_kernel(refresh_errors), *driver.packages]
        extras = manager.candidates(driver.extras) if driver.extras else {}
        names += [name for name, version in extras.items() if of_branch(version, driver.branch)]
        driver_state.write("installing", driver)
        manager.install(names, say)

    def need(self, names: tuple[str, ...], refresh_errors: str) -> dict[str, str]:
        """The candidates of these packages; DriverError where one has none."""
        candidates: dict[str, str] = self.manager.candidates(names) if names else {}
        missing = [name for name in names if name not in candidates]
        if missing:
            remedy = self.manager.remedy(self.driver, self.address)
            raise DriverError(
                f"the package manager knows no {' and no '.join(missing)}: {remedy}{_quoted(refresh_errors)}"
            )
        return candidates

    def for_kernel(self, refresh_errors: str) -> list[str]:
        """Modules or headers for the running kernel and those to come; if the archive has no more, for the newest."""
        driver, manager = self.driver, self.manager
        names = [*driver.kernel, *driver.follow]
        known = {**manager.candidates(names), **manager.installed(names)}
        fit = set(driver.kernel) <= set(known)
        if driver.dkms:
            fit = fit or os.path.isdir(f"/lib/modules/{self.kernel}/build")
        else:  # signed modules go with one version of the driver, and those for older kernels with one that is gone
            fit = fit and isinstance(manager, Apt) and manager.installable([*driver.kernel, *driver.packages])
        if fit:
            return [name for name in names if name in known]
        # A newer kernel comes with what follows, and the driver after the next boot.
        if not self.may_boot:
            raise DriverError(
                f"{driver} can't be had for the running kernel {self.kernel} any more, only with a newer one, and the "
                "driver that serves would stop until the host is rebooted: set nvidia_driver_reboot: true; nothing was "
                "installed"
            )
        if manager.system.manager == "dnf":
            return list(manager.candidates(["kernel", "kernel-devel"]))
        follow = [name for name in driver.follow if name in known]
        if not follow:
            raise DriverError(
                f"the archive has no {'headers' if driver.dkms else 'modules'} for the running kernel {self.kernel} "
                f"({' '.join(driver.kernel)}), and no package that follows its kernels is installed: boot a kernel of "
                f"the distribution's archive{_quoted(refresh_errors)}"
            )
        return [*follow, *(manager.image_for(name) for name in follow if driver.dkms)]

    def hold(self, say: Say) -> None:
        """Keep the packages as they are, whatever updates the host."""
        names = self.manager.to_hold(self.driver)
        if set(names) - self.manager.held():
            self.manager.hold(names)


def _quoted(refresh_errors: str) -> str:
    return f" ({refresh_errors[:300]})" if refresh_errors else ""
