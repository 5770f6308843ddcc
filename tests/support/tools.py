"""An environment of supervisor that all deployments on this machine share: to make one takes seven seconds of each."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.conftest import ROOT, cache_folder
from tests.locks import lock
from tests.modules import call


@functools.cache
def supervisor_tools() -> Path:
    """Its folder; role host_tools' module makes it on the first use and looks at it on others."""
    path = cache_folder() / "supervisor"
    wanted = (ROOT / "roles/host_tools/files/supervisor.txt").read_text()
    with lock(cache_folder() / "supervisor.lock"):
        # What Ansible gives the module has no newline at its end.
        made = call(
            ROOT / "plugins/modules/host_tools.py", {"path": str(path), "sets": {"supervisor": wanted.rstrip()}}
        )
    assert not made.get("failed"), made
    return path


def give_tools(root: Path) -> None:
    """Have a service below ``root`` use them; its role would make its own there."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "env").symlink_to(supervisor_tools())
