"""systemd: units of this prefix, and of others."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.module_utils.hostlib.instances import Instance
from plugins.module_utils.llama_server.errors import HostError
from plugins.module_utils.llama_server.runtimes import systemd as systemd_runtime
from plugins.module_utils.llama_server.runtimes.base import Settings
from plugins.module_utils.llama_server.runtimes.systemd import Systemd


def test_a_unit_of_another_prefix_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = tmp_path / "llama-server@main.service"
    unit.write_text("ExecStart=/usr/bin/python3 /elsewhere/launch.py /elsewhere/main\n")
    monkeypatch.setattr(systemd_runtime, "UNITS", str(tmp_path))
    systemd = Systemd(
        Settings(root=str(tmp_path / "instances"), logs=str(tmp_path), user="nobody", supervisor_python="")
    )
    with pytest.raises(HostError, match="belongs to another prefix of this host: remove it, or"):
        systemd.prepare(Instance(name="main"))
    # None of these calls systemctl, which this machine may not have.
    for leave in (systemd.stop, systemd.unsettle, systemd.forget):
        leave("main")
    assert systemd.status("main").state == "stopped"
    assert unit.exists()
