"""What the version before files were dataclasses wrote on a host, as it wrote it (data/former.json).

``params`` are those of a module; ``written`` is by instance its generation's name, the text of its instance.json and
the name of a trial of it; ``state.json`` and ``proof.json`` are texts of a deployment, a refused trial and a stop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FORMER: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "former.json").read_text())

SALT = bytes.fromhex(_FORMER["salt"])
PARAMS: dict[str, Any] = _FORMER["params"]
INSTANCES: dict[str, dict[str, str]] = _FORMER["written"]
STATES: list[str] = _FORMER["state.json"]
PROOF: str = _FORMER["proof.json"]
