"""What is between a host and a driver that serves: found out, said in sentences, and done.

``Plan(settings).made()`` looks and decides and changes nothing; ``apply(settings, say)`` does what it says, and can be
killed and run again. Python 3.9's standard library only.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..hostlib import locks
from . import decisions as nvidia
from . import host as nvidia_host
from .packages import DriverError, Say, manager_of, read, run, write

FOLDER = "/var/lib/llama-nexus"
STATE = f"{FOLDER}/nvidia-driver.json"
LOCK = f"{FOLDER}/nvidia-driver.lock"
BLACKLIST = "/etc/modprobe.d/llama-nexus-nvidia.conf"
AT_BOOT = "/etc/modules-load.d/llama-nexus-nvidia.conf"
DROP_IN = "/etc/systemd/system/nvidia-persistenced.service.d/llama-nexus.conf"
DKMS_LOGS = "/var/lib/dkms/nvidia*/*/build/make.log"

BLACKLIST_TEXT = """# The kernel's own modules for the GPUs that NVIDIA's driver serves.
blacklist nouveau
blacklist nova_core
blacklist nova_drm
options nouveau modeset=0
"""
# A unit may start before anything else asks for them, and in its sandbox it can't load them.
AT_BOOT_TEXT = "nvidia\nnvidia-uvm\n"
STACK = ("nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia_peermem", "nvidia")  # each before what it stands on
SERVICES = ("nvidia-persistenced", "nvidia-fabricmanager", "nvidia-dcgm")
UVM = nvidia_host.NODES[1]


class RebootDue(Exception):
    """Why the host has to be rebooted before the driver can serve."""


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
class Step:
    """Something to do, as a sentence without a subject."""

    text: str
    do: Callable[[Say], None]
    disruptive: bool = False
    """Whether it takes the driver from programs that use it."""
    may_reboot: bool = False
    """Whether it may turn out that only a reboot does it."""


@dataclass
class Installation:
    """A driver that is to come from packages."""

    driver: nvidia.Driver
    manager: Any
    address: str
    signer: str
    kernel: str
    may_boot: bool
    """Whether the driver may be one that serves after the next boot only: none serves now, or a reboot is allowed."""

    def steps(self, found: nvidia_host.OnDisk | None, newer: list[str], *, in_use: bool) -> list[Step]:
        """What comes before the driver can be loaded."""
        driver, manager, steps = self.driver, self.manager, []
        if components := manager.components_due(driver.components):
            steps.append(Step(f"enable {', '.join(components)}", lambda say: manager.add_components(components)))
        if driver.source == "nvidia" and manager.repository_due(self.address, driver=True):
            steps.append(Step(f"add NVIDIA's repository {self.address}", self.add_repository))
        names = " ".join((*driver.pin, *driver.packages, *driver.follow))
        verb = "update" if newer else "replace" if found else "install"
        of = f" (now {found.version}, {found.flavour})" if found else ""
        steps.append(Step(f"{verb} {driver}{of}: {names}", self.install, disruptive=in_use))
        return steps

    def add_repository(self, say: Say) -> None:
        """Add NVIDIA's."""
        self.manager.add_repository(self.address, self.signer, driver=True)

    def install(self, say: Say) -> None:
        """Pin the branch, look what would come, and install it."""
        driver, manager = self.driver, self.manager
        manager.unfinished(say)
        told = manager.refresh(say)
        if driver.source == "nvidia":
            self.need(driver.pin if manager.system.manager == "apt" else (), told)
            manager.pin(driver, say)
        candidates = self.need(driver.packages, told)
        wrong = [f"{name} {version}" for name, version in candidates.items() if not of_branch(version, driver.branch)]
        if wrong:
            raise DriverError(
                f"branch {driver.branch} is pinned, and yet {', '.join(wrong)} would be installed: another setting of "
                "the package manager wins; nothing was installed"
            )
        names = [*self.for_kernel(told), *driver.packages]
        extras = manager.candidates(driver.extras) if driver.extras else {}
        names += [name for name, version in extras.items() if of_branch(version, driver.branch)]
        _write_state("installing", driver)
        manager.install(names, say)

    def need(self, names: tuple[str, ...], told: str) -> dict[str, str]:
        """The candidates of these packages; DriverError where one has none."""
        candidates: dict[str, str] = self.manager.candidates(names) if names else {}
        missing = [name for name in names if name not in candidates]
        if missing:
            remedy = self.manager.remedy(self.driver, self.address)
            raise DriverError(f"the package manager knows no {' and no '.join(missing)}: {remedy}{_quoted(told)}")
        return candidates

    def for_kernel(self, told: str) -> list[str]:
        """Modules or headers for the running kernel and those to come; if the archive has no more, for the newest."""
        driver, manager = self.driver, self.manager
        names = [*driver.kernel, *driver.follow]
        known = {**manager.candidates(names), **manager.installed(names)}
        fit = set(driver.kernel) <= set(known)
        if driver.dkms:
            fit = fit or os.path.isdir(f"/lib/modules/{self.kernel}/build")
        else:  # signed modules go with one version of the driver, and those for older kernels with one that is gone
            fit = fit and manager.installable([*driver.kernel, *driver.packages])
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
                f"the distribution's archive{_quoted(told)}"
            )
        return [*follow, *(manager.image_for(name) for name in follow if driver.dkms)]

    def hold(self, say: Say) -> None:
        """Keep the packages as they are, whatever updates the host."""
        names = self.manager.to_hold(self.driver)
        if set(names) - self.manager.held():
            self.manager.hold(names)


@dataclass
class Plan:
    """What a host has and what it takes to have a driver that serves."""

    settings: Settings
    seen: nvidia_host.Seen = field(default_factory=nvidia_host.look)
    kernel: str = field(default_factory=platform.release)
    container: str | None = field(default_factory=nvidia_host.container)
    state: dict[str, Any] = field(default_factory=lambda: read_state())
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    installation: Installation | None = None

    @property
    def gpus(self) -> list[dict[str, Any]]:
        """Those of the bus that are not given to virtual machines."""
        return [gpu for gpu in self.seen.bus if gpu["bound"] != "vfio-pci"]

    @property
    def unfinished(self) -> bool:
        """Whether a run that began was cut short, or waits for a reboot."""
        return self.state.get("phase") == "installing"

    @property
    def ours(self) -> bool:
        """Whether the driver is one that this role installed."""
        return bool(self.state)

    @property
    def disruptive(self) -> bool:
        """Whether what uses the GPUs has to be stopped first: the driver goes, or the host may be rebooted."""
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
            self.notes.append(f"nvidia-smi shows {len(self.seen.gpus)} of {len(self.gpus)} GPUs{_kernel_log()}")
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
        if not os.path.exists(UVM):
            self.steps.append(Step("load nvidia-uvm, without which CUDA has no memory", _load_modules))
            if read(AT_BOOT) != AT_BOOT_TEXT and not self.ours:
                self.steps.append(_at_boot())

    # --- a driver that is to be had

    def _get(self) -> None:
        found = nvidia_host.on_disk(self.kernel)
        broken = self._against(found) if found else None
        if found and not broken and not self.settings.upgrade and not self.unfinished:
            self._settle(again=not self.ours)  # it is installed, and only has to be loaded
            self._add_load(found)
            return
        if found and shutil.which("nvidia-uninstall"):
            raise DriverError(
                f"driver {found.version} was installed by NVIDIA's own installer, beside the packages, and "
                f"{broken or 'is to be replaced'}: run nvidia-uninstall first, then this again"
            )
        os_release, machine = nvidia_host.os_release(), platform.machine()
        system = nvidia.system_of(os_release)
        manager = manager_of(system, os_release, machine)
        driver = nvidia.driver_for(
            system, machine, self.gpus, kernel=self.kernel, kernel_metas=_kernel_metas(manager),
            branch=self.settings.branch, flavour=self.settings.flavour, nvswitch=nvidia_host.nvswitch(),
        )  # fmt: skip
        suits = found is not None and of_branch(found.version, driver.branch) and found.flavour == driver.flavour
        follow = manager.candidates(driver.follow) if driver.follow else {}
        lacks = not {*driver.packages, *follow} <= set(manager.installed([*driver.packages, *driver.follow]))
        # Signed modules bring the kernels that they are for, which are held with them.
        moving = driver.packages if driver.dkms else (*driver.packages, *follow)
        newer = manager.newer(moving) if self.settings.upgrade and suits and not lacks else []
        if self.seen.gpus and suits and not newer and not self.unfinished:
            self._keep()  # it was to be replaced, and is the right one
            return
        address = nvidia.repository(self.settings.repository_url, system, machine)
        self.installation = Installation(
            driver, manager, address, self.settings.repository_fingerprint, self.kernel,
            may_boot=self.settings.reboot or not self.seen.gpus,
        )  # fmt: skip
        install = bool(newer) or not suits or lacks
        if install:
            nvidia.check_secure_boot(driver, system, nvidia_host.secure_boot(nvidia.mok(system)))
            self.steps += self.installation.steps(found, newer, in_use=self.seen.loaded is not None)
        self._settle(again=True)
        self._add_load(found, replaced=install)
        if nvidia_host.nvswitch():
            self.steps.append(Step("start the fabric manager, without which CUDA can't use these GPUs", _start_fabric))

    def _against(self, found: nvidia_host.OnDisk) -> str | None:
        """Why the installed driver can't serve the GPUs, whoever installed it."""
        branch = nvidia.branch_of(found.version)
        told = (nvidia.why_not(branch, found.flavour, gpu) for gpu in self.gpus)
        return next((f"its {found.flavour} modules can't serve: {text}" for text in told if text), None)

    # --- what makes it last

    def _settle(self, *, again: bool) -> None:
        """Blacklist and initramfs, modules at boot, persistence, hold.

        Args:
            again: also what can't be seen to have been done to the end.
        """
        if read(BLACKLIST) != BLACKLIST_TEXT or again:
            self.steps.append(Step("keep nouveau and nova from loading, now and in the initramfs", _blacklist))
        if read(AT_BOOT) != AT_BOOT_TEXT:
            self.steps.append(_at_boot())
        if (not os.path.exists(DROP_IN) or again) and (self.installation or _persistenced()):
            self.steps.append(Step("keep the driver initialized while nothing uses it (nvidia-persistenced)", _persist))
        if self.installation:
            branch = self.installation.driver.branch
            self.steps.append(Step(f"hold the packages of branch {branch}", self.installation.hold))

    # --- loading

    def _add_load(self, found: nvidia_host.OnDisk | None, *, replaced: bool = False) -> None:
        rivals = [name for name in nvidia_host.RIVALS if os.path.isdir(f"{nvidia_host.MODULES}/{name}")]
        swapped = self.seen.loaded and (replaced or (found and found.version != self.seen.loaded))
        text = "load the driver"
        text += f", in place of {' and '.join(rivals)}" if rivals else ""
        text += f", in place of the {self.seen.loaded} that is loaded" if swapped else ""
        after = "; where it can't be unloaded, a reboot is due" if rivals or swapped else ""
        self.steps.append(Step(text + after, self._load, disruptive=bool(swapped), may_reboot=True))

    def _load(self, say: Say) -> None:
        """Load what is on the disk for the running kernel; RebootDue where that takes a boot."""
        found = nvidia_host.on_disk(self.kernel)
        if found is None:
            others = [kernel for kernel in _kernels() if kernel != self.kernel and nvidia_host.on_disk(kernel)]
            if others:
                raise RebootDue(f"the driver's modules are for kernel {' and '.join(others)}, and {self.kernel} runs")
            raise DriverError(
                f"the packages are installed, but there is no module for kernel {self.kernel}: dkms status says how "
                f"far it came, and its logs why ({', '.join(glob.glob(DKMS_LOGS)) or 'there are none'})"
            )
        for rival in nvidia_host.RIVALS:
            if os.path.isdir(f"{nvidia_host.MODULES}/{rival}"):
                _unload(rival, f"{rival} holds the GPUs")
        loaded, flavour = nvidia_host.loaded_module()
        if loaded and (loaded != found.version or (flavour and flavour != found.flavour)):
            with _services_stopped():
                for module in STACK:
                    if os.path.isdir(f"{nvidia_host.MODULES}/{module}"):
                        _unload(module, f"driver {loaded} is in use, {found.version} is installed")
                _load_modules(say)
        else:
            _load_modules(say)
        if _systemd() and os.path.exists(DROP_IN):
            run(["systemctl", "restart", "nvidia-persistenced"])

    # --- afterwards

    def verify(self) -> nvidia_host.Seen:
        """What is there now; DriverError unless nvidia-smi shows every GPU of the bus, by the wanted driver."""
        now = nvidia_host.look()
        there = [gpu for gpu in now.bus if gpu["bound"] != "vfio-pci"]
        if now.problem or len(now.gpus) < len(there):
            told = now.problem or f"nvidia-smi shows {len(now.gpus)} of the {len(there)} GPUs on the PCI bus"
            raise DriverError(f"the driver does not serve: {told}{_kernel_log()}")
        version, wanted = now.gpus[0]["driver"], self.installation.driver.branch if self.installation else ""
        if wanted and not of_branch(version, wanted):
            raise DriverError(f"driver {version} serves, and branch {wanted} was installed: reboot the host")
        if not os.path.exists(UVM):
            raise DriverError(
                f"nvidia-smi works, but {UVM} is not there, which CUDA needs: modprobe nvidia-uvm says why"
            )
        return now


def apply(settings: Settings, say: Say, *, rebooted: bool = False) -> dict[str, Any]:
    """Do what the plan says, and prove it.

    Returns ``done`` (sentences), ``reboot`` (why one is due; empty where none is), ``gpus`` and ``driver``.
    DriverError where it can't be done; NvidiaError where it can't be.
    """
    with _alone(say):
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
        now = plan.verify()
        if plan.installation:
            _write_state("installed", plan.installation.driver)
        return _result(done, now)


def _result(done: list[str], seen: nvidia_host.Seen) -> dict[str, Any]:
    return {"done": done, "reboot": "", "gpus": seen.gpus, "driver": seen.gpus[0]["driver"] if seen.gpus else None}


def read_state() -> dict[str, Any]:
    """What this role wrote down about the host's driver; empty where it never installed one."""
    try:
        found = json.loads(read(STATE) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _write_state(phase: str, driver: nvidia.Driver) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write(STATE, json.dumps({"phase": phase, "driver": driver._asdict(), "at": at}, indent=1) + "\n")


@contextlib.contextmanager
def _alone(say: Say) -> Iterator[None]:
    """One run at a time: a job goes on when its controller is lost, and the next run waits for it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(LOCK, "driver", waiting=say))
        except locks.LockError as error:
            raise DriverError(str(error)) from error
        yield


def _at_boot() -> Step:
    return Step("load nvidia and nvidia-uvm at boot", lambda say: write(AT_BOOT, AT_BOOT_TEXT))


def _blacklist(say: Say) -> None:
    write(BLACKLIST, BLACKLIST_TEXT)
    if shutil.which("update-initramfs"):
        run(["update-initramfs", "-u", "-k", "all"], say)
    elif shutil.which("dracut"):
        run(["dracut", "--force", "--regenerate-all"], say)
    if shutil.which("grubby"):
        run(["grubby", "--update-kernel=ALL", "--args=nouveau.modeset=0 rd.driver.blacklist=nouveau"], say)


def _persist(say: Say) -> None:
    """Have nvidia-persistenced run from boot on. Ubuntu's unit can't be enabled, stops by itself, and has it off."""
    if not _systemd():
        return
    unit = "nvidia-persistenced.service"
    told = run(["systemctl", "cat", unit], ok=(0, 1))
    if "ExecStart=" not in told:
        raise DriverError(f"{unit} is not there, which keeps the driver initialized: install the package that holds it")
    own = told.partition(f"# {DROP_IN}")[0]
    lines = ["[Unit]", "StopWhenUnneeded=no", "[Service]"]
    starts = [line for line in own.splitlines() if line.startswith("ExecStart=/")]
    if any("--no-persistence-mode" in line for line in starts):
        lines += ["ExecStart=", *(line.replace("--no-persistence-mode", "--persistence-mode") for line in starts)]
    modprobe = shutil.which("nvidia-modprobe")
    if modprobe:  # a server in its sandbox can't make the nodes
        lines.append(f"ExecStartPost=-{modprobe} -u -c=0")
    write(DROP_IN, "\n".join(lines) + "\n")
    run(["systemctl", "daemon-reload"])
    if "[Install]" in own:
        run(["systemctl", "enable", unit])
    else:
        run(["systemctl", "add-wants", "multi-user.target", unit])


def _persistenced() -> bool:
    """Whether the service is there."""
    places = ("/usr/lib", "/lib", "/etc")
    return any(os.path.exists(f"{place}/systemd/system/nvidia-persistenced.service") for place in places)


def _load_modules(say: Say) -> None:
    for module in ("nvidia", "nvidia-uvm"):
        try:
            run(["modprobe", module])
        except DriverError as error:
            raise DriverError(f"{error}{_hint(str(error))}") from error
    if shutil.which("nvidia-modprobe"):
        run(["nvidia-modprobe", "-u", "-c=0"])


@contextlib.contextmanager
def _services_stopped() -> Iterator[None]:
    """Without the services that keep the modules in use; those that ran run again afterwards, whatever happened."""
    ran = [service for service in SERVICES if _systemd() and _is_active(service)]
    for service in ran:
        run(["systemctl", "stop", service])
    try:
        yield
    except BaseException:
        for service in ran:
            with contextlib.suppress(DriverError):  # what happened before is the error to tell
                run(["systemctl", "start", service])
        raise
    for service in ran:
        run(["systemctl", "start", service])


def _start_fabric(say: Say) -> None:
    run(["systemctl", "enable", "--now", "nvidia-fabricmanager"])


def _unload(module: str, why: str) -> None:
    try:
        run(["modprobe", "-r", module])
    except DriverError as error:
        raise RebootDue(f"{why}, and {module} can't be unloaded ({error})") from error


def _systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def _is_active(service: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", service], check=False).returncode == 0


def _kernels() -> list[str]:
    return sorted(os.path.basename(path) for path in glob.glob("/lib/modules/*"))


def _kernel_metas(manager: Any) -> list[str]:
    """On Ubuntu and Debian, the installed packages that bring new kernels: ``generic`` of linux-image-generic."""
    if manager.system.manager != "apt":
        return []
    names = manager.installed(["linux-image-*"])
    return sorted(name[len("linux-image-") :] for name in names if re.match(r"linux-image-(?!unsigned-)[a-z]", name))


def of_branch(version: str, branch: str) -> bool:
    """Whether a package's or driver's version, perhaps with an epoch, is of a branch."""
    return version.rpartition(":")[2].startswith(f"{branch}.")


def _quoted(told: str) -> str:
    return f" ({told[:300]})" if told else ""


def _hint(told: str) -> str:
    if "Key was rejected" in told:
        return "; Secure Boot refuses it: enroll the host's key (docs/gpu-hosts.md), or switch Secure Boot off"
    return _kernel_log()


def _kernel_log() -> str:
    """What the driver said last in the kernel's log."""
    done = subprocess.run(["dmesg"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    found = [line.partition("NVRM: ")[2] for line in done.stdout.decode(errors="replace").splitlines()]
    last = " ".join([line for line in found if line][-3:])
    return f"; the kernel says: {last}" if last else ""
