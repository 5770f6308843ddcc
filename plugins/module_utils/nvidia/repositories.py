"""NVIDIA's package repositories: where each system's is, and what apt may take from it.

Python 3.9's standard library only.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from ..openpgp import OpenPgpError, whole_fingerprint
from .errors import NvidiaError
from .systems import ARCHITECTURES, System

LABEL = "NVIDIA CUDA"  # of NVIDIA's apt repositories

# What a toolkit is made of, beside the packages asked for. The metapackages cuda and cuda-runtime are not among them:
# they bring a driver.
TOOLKIT_NAMES = (
    "cuda-*-12-* cuda-*-13-* cuda-toolkit-* libcublas-* libnvjitlink-* libnvptxcompiler-* libnvvm-* libnvfatbin-*"
)
# The container toolkit has a repository of its own.
CONTAINER_NAMES = "nvidia-container-* libnvidia-container*"


def repository(url: str, system: System, machine: str) -> str:
    """The address of NVIDIA's repository for a system; NvidiaError where it would give a password away."""
    if urlsplit(url).username is not None:
        raise NvidiaError(
            "nvidia_driver_repository_url holds a password, which would stand in a file that all may read: add that "
            "repository to the package manager's own with what it takes (/etc/apt/auth.conf.d, or a .repo file of your "
            "own), and name it here without"
        )
    return f"{url.rstrip('/')}/{system.folder}/{ARCHITECTURES[machine][0]}"


def signer(address: str, system: System, setting: str) -> str:
    """The whole fingerprint of the key that a repository must be signed with: NVIDIA's, or that of the setting.

    Raises NvidiaError where it is not known, or the setting is only a part of one.
    """
    if not setting and not system.key.fingerprint:
        raise NvidiaError(
            f"the fingerprint of NVIDIA's key for {system.name} is not known here: have {address}/{system.key.file} "
            "from two places, compare what gpg --show-keys says of it, and set nvidia_driver_repository_fingerprint"
        )
    try:
        return whole_fingerprint(setting or system.key.fingerprint)
    except OpenPgpError as error:
        raise NvidiaError(f"nvidia_driver_repository_fingerprint: {error}") from error


def preferences(*, driver: bool) -> str:
    """apt's preferences for NVIDIA's repository: all that is for a driver, or nothing but toolkits."""
    rules = [(CONTAINER_NAMES, -1), ("*", 600)] if driver else [(TOOLKIT_NAMES, 600), ("*", -1)]
    pin = f"Pin: release l={LABEL}"
    return "".join(f"Package: {names}\n{pin}\nPin-Priority: {priority}\n\n" for names, priority in rules)
