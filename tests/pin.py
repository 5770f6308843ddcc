"""The version of llama.cpp that the role pins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_DEFAULTS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).resolve().parent.parent / "roles" / "llama_cpp" / "defaults" / "main.yml").read_text()
)
REF = str(_DEFAULTS["llama_cpp_ref"])
COMMIT = str(_DEFAULTS["llama_cpp_commit"])
BUILD_INFO = f"{REF}-{COMMIT[:9]}"
