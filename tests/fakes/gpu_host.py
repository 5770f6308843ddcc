"""A machine with GPUs whose kernel and firmware are stand-ins, and NVIDIA's repository for it.

    write_bus(folder, {"0000:01:00.0": "0x27b8"})          # to be mounted at /sys/bus/pci/devices
    with bed.host("systemd", "rig", mounts={folder: BUS, repository: "/opt/nvidia"}, tmpfs=TMPFS) as host:
        equip(host, repository)

What can't be real in a container is below the kernel's interface: ``modprobe``, ``modinfo`` and ``dmesg`` are programs
in /usr/local/sbin that keep what is loaded in /sys/module, /proc/driver and /dev, and lose it when the host is booted;
what boots is a unit that loads nouveau, unless it is blacklisted, and what /etc/modules-load.d names, and gives each
boot an id. Packages, repository, apt, dpkg and systemd are real; ``systemd-detect-virt`` says that it is no container.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from tests.bed import Host
from tests.fakes.apt_repository import AptRepository

BUS = "/sys/bus/pci/devices"
TMPFS = {"/sys/module": "1m"}
REPOSITORY = "/opt/nvidia"
KERNEL = platform.release()

# What the kernel does when a module is loaded. /etc/fake-kernel/ holds what a test wants of it: `busy-NAME` can't be
# unloaded, `refuses-NAME` can't be loaded, and its text says why.
MODPROBE = r"""#!/bin/sh
name=$(echo "${2:-$1}" | tr - _)
kernel=$(uname -r)
ko=/lib/modules/$kernel/updates/dkms/nvidia.ko
if [ "$1" = -r ]; then
    if [ -e /etc/fake-kernel/busy-$name ]; then echo "modprobe: FATAL: Module $name is in use." >&2; exit 1; fi
    rm -rf /sys/module/$name
    if [ $name = nvidia ]; then rm -rf /proc/driver/nvidia /dev/nvidiactl; fi
    if [ $name = nvidia_uvm ]; then rm -f /dev/nvidia-uvm; fi
    exit 0
fi
[ -d /sys/module/$name ] && exit 0
if [ -e /etc/fake-kernel/refuses-$name ]; then
    echo "modprobe: ERROR: could not insert '$name': $(cat /etc/fake-kernel/refuses-$name)" >&2; exit 1
fi
if [ $name != nouveau ] && [ ! -e $ko ]; then
    echo "modprobe: FATAL: Module $name not found in directory /lib/modules/$kernel" >&2; exit 1
fi
mkdir -p /sys/module/$name
case $name in
nvidia)
    version=$(sed -n s/version=//p $ko); echo $version >/sys/module/nvidia/version
    mountpoint -q /proc/driver || mount -t tmpfs tmpfs /proc/driver
    mkdir -p /proc/driver/nvidia
    kind="Open Kernel Module for x86_64"
    [ "$(sed -n s/license=//p $ko)" = NVIDIA ] && kind="x86_64 Kernel Module"
    echo "NVRM version: NVIDIA UNIX $kind  $version  Release Build" >/proc/driver/nvidia/version
    : >/dev/nvidiactl;;
nvidia_uvm) : >/dev/nvidia-uvm;;
esac
"""
MODINFO = r"""#!/bin/sh
# modinfo -k KERNEL -F FIELD nvidia
ko=/lib/modules/$2/updates/dkms/$5.ko
[ -e $ko ] || { echo "modinfo: ERROR: Module $5 not found." >&2; exit 1; }
sed -n "s/^$4=//p" $ko
"""
DETECT_VIRT = "#!/bin/sh\necho none\nexit 1\n"
INITRAMFS = '#!/bin/sh\necho "$*" >>/var/log/initramfs\n'
BOOT = r"""#!/bin/sh
cat /proc/sys/kernel/random/uuid >/run/boot-id
mount --bind /run/boot-id /proc/sys/kernel/random/boot_id
grep -qs '^blacklist nouveau' /etc/modprobe.d/*.conf || modprobe nouveau
cat /etc/modules-load.d/*nvidia*.conf 2>/dev/null | while read -r name; do modprobe "$name"; done
exit 0
"""
BOOT_UNIT = """[Unit]
Description=What the kernel loads at boot
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/fake-boot
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
[Install]
WantedBy=multi-user.target
"""

# The driver's own tool: one GPU for each of the bus, by a driver whose library is of its own package's version.
NVIDIA_SMI = r"""#!/bin/sh
library=@VERSION@
loaded=$(cat /sys/module/nvidia/version 2>/dev/null)
if [ -z "$loaded" ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest"
    exit 9
fi
if [ "$loaded" != "$library" ]; then
    echo "Failed to initialize NVML: Driver/library version mismatch"
    echo "NVML library version: ${library%.*}"
    exit 18
fi
shown=0
for device in /sys/bus/pci/devices/*; do
    [ "$(cat $device/vendor)" = 0x10de ] || continue
    [ -e /etc/fake-kernel/lost-$(basename $device) ] && continue
    echo "NVIDIA L4, 8.9, $loaded, 23034"; shown=1
done
[ $shown = 1 ] || { echo "No devices were found"; exit 6; }
"""
# As Ubuntu has it: not to be enabled, without persistence.
PERSISTENCED = """[Unit]
Description=NVIDIA Persistence Daemon
StopWhenUnneeded=true
[Service]
ExecStart=/usr/bin/nvidia-persistenced --no-persistence-mode
"""
KO = r"""#!/bin/sh
set -e
mkdir -p "/lib/modules/@KERNEL@/updates/dkms"
printf "version=%s\nlicense=%s\n" @VERSION@ "@LICENSE@" >"/lib/modules/@KERNEL@/updates/dkms/nvidia.ko"
"""
NVCC = "#!/bin/sh\necho 'Cuda compilation tools, release @VERSION@, V@VERSION@.1'\n"


def write_bus(folder: Path, devices: Mapping[str, str], kind: str = "0x030200") -> None:
    """What the kernel shows of PCI devices of NVIDIA: ids by address."""
    for address, device in devices.items():
        place = folder / address
        place.mkdir(parents=True)
        for name, value in (("vendor", "0x10de"), ("device", device), ("class", kind)):
            (place / name).write_text(f"{value}\n")
    folder.chmod(0o755)


def write_repository(folder: Path, kernel: str = KERNEL) -> AptRepository:
    """NVIDIA's repository for Debian 12, with two branches of the driver, a toolkit, and headers of the running kernel.

    Args:
        kernel: the one that headers and modules are for.
    """
    repository = AptRepository(folder / "debian12" / "x86_64", label="NVIDIA CUDA", key="3bf863cc.pub")
    pin = "Package: *nvidia*\nPin: version 580.*\nPin-Priority: 1000\n"
    repository.add("nvidia-driver-pinning-580", "580-1", {"/etc/apt/preferences.d/nvidia-driver-pinning-580": pin})
    for version in ("580.95.05", "615.71.09"):
        smi = NVIDIA_SMI.replace("@VERSION@", version)
        repository.add("nvidia-driver-cuda", f"{version}-1", {"/usr/bin/nvidia-smi": smi})
        for name, kind in (("nvidia-kernel-open-dkms", "Dual MIT/GPL"), ("nvidia-kernel-dkms", "NVIDIA")):
            postinst = KO.replace("@VERSION@", version).replace("@LICENSE@", kind).replace("@KERNEL@", kernel)
            repository.add(name, f"{version}-1", depends=f"linux-headers-{kernel}", postinst=postinst)
        repository.add(
            "nvidia-persistenced", f"{version}-1",
            {"/usr/bin/nvidia-persistenced": "#!/bin/sh\nexec sleep infinity\n",
             "/lib/systemd/system/nvidia-persistenced.service": PERSISTENCED},
        )  # fmt: skip
    repository.add(f"linux-headers-{kernel}", "1")
    repository.add("linux-headers-amd64", "580.1", depends=f"linux-headers-{kernel}")
    repository.add("linux-image-amd64", "580.1")
    for part in ("cuda-cudart-dev-13-2", "libcublas-dev-13-2", "cuda-cccl-13-2"):
        repository.add(part, "13.2.75-1")
    repository.add("cuda-nvcc-13-2", "13.2.75-1", {"/usr/local/cuda-13.2/bin/nvcc": NVCC.replace("@VERSION@", "13.2")})
    repository.publish()
    return repository


def equip(host: Host) -> None:
    """Give a host the stand-ins, boot their kernel, and have it come back when it is rebooted from inside."""
    host.container.update(restart_policy={"Name": "always"})
    tools = {
        "modprobe": MODPROBE, "modinfo": MODINFO, "systemd-detect-virt": DETECT_VIRT, "update-initramfs": INITRAMFS,
        "fake-boot": BOOT, "dmesg": "#!/bin/sh\n",
    }  # fmt: skip
    for name, text in tools.items():
        write(host, f"/usr/local/sbin/{name}", text, "755")
    write(host, "/etc/systemd/system/fake-kernel.service", BOOT_UNIT)
    host.exec("mkdir", "-p", "/etc/fake-kernel")
    host.exec("systemctl", "enable", "--now", "fake-kernel.service")


def write(host: Host, path: str, text: str, mode: str = "644") -> None:
    """Write a file on a host."""
    host.exec(
        "sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1" && chmod "$3" "$1"', "sh", path, text, mode
    )


def install_driver(host: Host, version: str, flavour: str, *, load: bool = True) -> None:
    """Put a driver on a host as somebody else would, without packages."""
    kind = "NVIDIA" if flavour == "proprietary" else "Dual MIT/GPL"
    write(host, f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko", f"version={version}\nlicense={kind}\n")
    write(host, "/usr/bin/nvidia-smi", NVIDIA_SMI.replace("@VERSION@", version), "755")
    if load:
        host.exec("sh", "-c", "modprobe -r nouveau; modprobe nvidia; modprobe nvidia-uvm")
