"""Difference between what is deployed and what is declared, as texts for --diff. Of keys only the names show."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from ..hostlib.instances import Instance
from ..hostlib.stored import to_json
from .desired_state import Declaration, salt
from .host import Host
from .keys import named_keys, old_keys


def difference(host: Host) -> dict[str, str]:
    """The deployed and the declared state, as texts for --diff. Of keys only the names show."""
    own = salt(host.root, create=False)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name, declaration in host.declared.items():
        folder, identity = host.folder(name), declaration.identity(own)
        config = declaration.placed(folder.generation(identity), identity)
        deployed = folder.linked("verified")
        before[name] = _shown(deployed, folder.generation(deployed.id)) if deployed else {}
        after[name] = _shown(config, None, declaration.files)
        if deployed and old_keys(deployed) != _keys_of(declaration):
            before[name]["keys"], after[name]["keys"] = "as before", "changed"
    for folder in host.undeclared() if host.prune else ():
        before[folder.name] = _shown(folder.linked("verified") or Instance(), None)
    return {"before": to_json(before), "after": to_json(after)}


def _keys_of(declaration: Declaration) -> dict[str, str]:
    return dict(named_keys(declaration.files.get("keys", "").splitlines()))


def _shown(config: Instance, folder: str | None, files: dict[str, str] | None = None) -> dict[str, Any]:
    """A configuration without what differs by itself: the generation's name in its own paths."""
    left = {key: value for key, value in config.as_json().items() if key not in ("id", "folder", "key_file", "unit")}
    place = config.folder
    left["argv"] = [word.replace(place, "@") if place else word for word in config.argv]
    if config.unit is not None:
        left["unit"] = config.unit.splitlines()
    for name in ("chat_template.jinja", "models.ini"):
        text = None
        if files is not None:
            text = files.get(name)
        elif folder and config.id:
            with contextlib.suppress(OSError), open(os.path.join(folder, name), encoding="utf-8") as stream:
                text = stream.read()
        if text is not None:
            left[name] = text.splitlines()
    return left
