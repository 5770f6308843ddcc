"""Values of supervisor's configuration, read back by supervisor itself."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from plugins.module_utils.hostlib import supervisor

CONFIGURATION = """\
[supervisord]
[program:main]
command = {command}
directory = {directory}
"""


@pytest.mark.parametrize("name", ["plain", "two words", "50% of it", "it's", "%(here)s", 'a "quote"'])
def test_supervisor_reads_what_was_meant(tmp_path: Path, name: str) -> None:
    argv = [str(tmp_path / name / "python"), "launch.py", f"/srv/{name}"]
    file = tmp_path / "supervisord.conf"
    file.write_text(CONFIGURATION.format(command=supervisor.command(argv), directory=supervisor.value(str(tmp_path))))
    options = ServerOptions()
    options.realize(["--configuration", str(file)])
    options.process_config(do_usage=False)
    [process] = options.process_group_configs[0].process_configs
    assert shlex.split(process.command) == argv
    assert process.directory == str(tmp_path)
