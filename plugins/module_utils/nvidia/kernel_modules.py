"""NVIDIA's kernel modules: loaded now and at boot, and the kernel's own kept from the GPUs.

Python 3.9's standard library only.
"""

from __future__ import annotations

import glob
import os
import shutil

from ..hostlib import systemd
from ..hostlib.files import read_text, write_file
from ..hostlib.programs import output_of
from . import facts as nvidia_facts
from . import services
from .errors import DriverError, RebootDue
from .packages import Say, run

BLACKLIST = "/etc/modprobe.d/llama-nexus-nvidia.conf"
AT_BOOT = "/etc/modules-load.d/llama-nexus-nvidia.conf"
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
UVM = nvidia_facts.NODES[1]


def load_at_boot(say: Say) -> None:
    """Have the modules loaded when the host boots."""
    write_file(AT_BOOT, AT_BOOT_TEXT, parents=True)


def are_loaded_at_boot() -> bool:
    """True where that is so already."""
    return read_text(AT_BOOT) == AT_BOOT_TEXT


def blacklist_rivals(say: Say) -> None:
    """Keep the kernel's own modules for the same GPUs from loading, in the initramfs too."""
    write_file(BLACKLIST, BLACKLIST_TEXT, parents=True)
    if shutil.which("update-initramfs"):
        run(["update-initramfs", "-u", "-k", "all"], say)
    elif shutil.which("dracut"):
        run(["dracut", "--force", "--regenerate-all"], say)
    if shutil.which("grubby"):
        run(["grubby", "--update-kernel=ALL", "--args=nouveau.modeset=0 rd.driver.blacklist=nouveau"], say)


def are_rivals_blacklisted() -> bool:
    """True where that is so already, as far as the file tells; nothing tells of the initramfs."""
    return read_text(BLACKLIST) == BLACKLIST_TEXT


def loaded_rivals() -> list[str]:
    """Those of the kernel's own modules that are loaded."""
    return [name for name in nvidia_facts.RIVALS if os.path.isdir(f"{nvidia_facts.MODULES}/{name}")]


def replace_loaded(kernel: str, say: Say) -> None:
    """Load what is on the disk for the running kernel; RebootDue where that takes a boot."""
    installed = nvidia_facts.on_disk(kernel)
    if installed is None:
        others = [other for other in _kernels() if other != kernel and nvidia_facts.on_disk(other)]
        if others:
            raise RebootDue(f"the driver's modules are for kernel {' and '.join(others)}, and {kernel} runs")
        raise DriverError(
            f"the packages are installed, but there is no module for kernel {kernel}: dkms status says how "
            f"far it came, and its logs why ({', '.join(glob.glob(DKMS_LOGS)) or 'there are none'})"
        )
    for rival in loaded_rivals():
        _unload(rival, f"{rival} holds the GPUs")
    loaded, flavour = nvidia_facts.loaded_module()
    if loaded and (loaded != installed.version or (flavour and flavour != installed.flavour)):
        with services.stopped():
            for module in STACK:
                if os.path.isdir(f"{nvidia_facts.MODULES}/{module}"):
                    _unload(module, f"driver {loaded} is in use, {installed.version} is installed")
            load(say)
    else:
        load(say)
    if systemd.is_pid_1() and os.path.exists(services.DROP_IN):
        run(["systemctl", "restart", "nvidia-persistenced"])


def load(say: Say) -> None:
    """Load the modules and make their nodes. DriverError says what the kernel says of it."""
    for module in ("nvidia", "nvidia-uvm"):
        try:
            run(["modprobe", module])
        except DriverError as error:
            raise DriverError(f"{error}{_hint(str(error))}") from error
    if shutil.which("nvidia-modprobe"):
        run(["nvidia-modprobe", "-u", "-c=0"])


def _unload(module: str, why: str) -> None:
    try:
        run(["modprobe", "-r", module])
    except DriverError as error:
        raise RebootDue(f"{why}, and {module} can't be unloaded ({error})") from error


def _kernels() -> list[str]:
    return sorted(os.path.basename(path) for path in glob.glob("/lib/modules/*"))


def _hint(error: str) -> str:
    if "Key was rejected" in error:
        return "; Secure Boot refuses it: enroll the host's key (docs/gpu-hosts.md), or switch Secure Boot off"
    return kernel_log()


def kernel_log() -> str:
    """The driver's last words in the kernel's log, as the end of a sentence; empty where there are none."""
    lines = (output_of(["dmesg"]) or "").splitlines()
    last = " ".join([text for line in lines if (text := line.partition("NVRM: ")[2])][-3:])
    return f"; the kernel says: {last}" if last else ""
