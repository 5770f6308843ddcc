"""Installing Python packages into an environment of the project's own: with which variables, and whether it worked.

    made = run([python, "-m", "pip", "install", ...], env=installer_environment(python))
    missing(python, {"supervisor": requirements})      # {"supervisor": []}

People set pip and uv up for other ends: PIP_USER, a target folder or a constraint in pip.conf, PYTHONPATH. With those,
packages land elsewhere or not at all, and pip says that all is well. Only what leads to the package index is taken.
Python 3.9's standard library only; noxfile.py runs this file by itself.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Mapping

FOREIGN = re.compile("(?:PIP|UV|VIRTUALENV|PYTHON|SETUPTOOLS|DISTUTILS).*|VIRTUAL_ENV|__PYVENV_LAUNCHER__")
# The way to the package index: which it is, who may read it, its certificates, proxies and patience.
PIP_OPTIONS = (
    "index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "cert", "client-cert", "proxy", "timeout",
    "default-timeout", "retries", "keyring-provider", "disable-pip-version-check",
)  # fmt: skip
UV_VARIABLES = re.compile(
    "UV_(?:INDEX.*|DEFAULT_INDEX|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|KEYRING_PROVIDER|NATIVE_TLS|SYSTEM_CERTS|"
    "INSECURE_HOST|HTTP_.*|REQUEST_TIMEOUT|CONCURRENT_.*|OFFLINE|CONFIG_FILE|CACHE_DIR|LINK_MODE)"
)
ASK_SECONDS = 120
# Run by the environment's interpreter: what of requirements by name is not there, or not in the wanted version.
LOOK = r"""
import importlib.metadata, json, os, re, sys
import pip
from pip._vendor.packaging.requirements import Requirement
def is_there(wanted):
    try:
        found = importlib.metadata.distribution(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    inside = os.path.realpath(str(found.locate_file(""))).startswith(os.path.realpath(sys.prefix) + os.sep)
    return inside and wanted.specifier.contains(found.version, prereleases=True)
missing = {}
for name, text in json.load(sys.stdin).items():
    lines = [re.split(r"\s--|(?:^|\s)#", line)[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    wanted = [Requirement(line) for line in lines if line and not line.startswith("-")]
    missing[name] = [str(one) for one in wanted if not (one.marker and not one.marker.evaluate()) and not is_there(one)]
print(json.dumps(missing))
"""


def installer_environment(python: str | None = None) -> dict[str, str]:
    """The environment for pip, uv, venv and virtualenv.

    Args:
        python: an interpreter whose pip is asked how the package index is reached; None: its files are not wanted.
    """
    kept = {
        name: value for name, value in os.environ.items() if not FOREIGN.fullmatch(name) or UV_VARIABLES.fullmatch(name)
    }
    if python is None:
        return kept
    variables = {variable(option) for option in PIP_OPTIONS} | {"PIP_CONFIG_FILE"}
    asking = {**kept, **{name: value for name, value in os.environ.items() if name in variables}}
    settings = pip_settings(python, "install", asking)
    if settings is None:  # as of a file of settings that can't be read: pip says more
        return asking
    ways = {variable(option): value for option, value in settings.items() if option in PIP_OPTIONS}
    return {**kept, **ways, "PIP_CONFIG_FILE": os.devnull}


def variable(option: str) -> str:
    """The variable by which pip takes an option."""
    return f"PIP_{option.upper().replace('-', '_')}"


def pip_settings(python: str, command: str, environment: Mapping[str, str] | None = None) -> dict[str, str] | None:
    """The settings of a command of pip's, by option: of its files, then of the variables. None: it can't be asked."""
    try:
        done = subprocess.run(
            [python, "-m", "pip", "--no-input", "config", "list"], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ASK_SECONDS, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    sections: dict[str, dict[str, str]] = {"global": {}, command: {}, ":env:": {}}
    for line in done.stdout.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in sections:
            sections[section][option] = str(ast.literal_eval(value))
    return {**sections["global"], **sections[command], **sections[":env:"]}


def missing(python: str, requirements: Mapping[str, str]) -> dict[str, list[str]] | None:
    """The requirements that an environment lacks, of each pinned set. None where it is none, or has no pip.

    Args:
        python: its interpreter.
        requirements: texts of requirements files, by name.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-c", LOOK], input=json.dumps(dict(requirements)).encode(), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=ASK_SECONDS, check=True,
        )  # fmt: skip
        found: dict[str, list[str]] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return found
