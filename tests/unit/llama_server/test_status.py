"""Status of an instance: what is told of it without asking its server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plugins.module_utils.hostlib.instances import Instance, Release
from plugins.module_utils.llama_server.status import has_web_page


@pytest.mark.parametrize(
    ("built", "argv", "has"),
    [
        ("off", (), False),
        ("npm", (), True),
        ("prebuilt", ("--ui",), True),
        ("npm", ("--no-ui",), False),
        ("npm", ("--no-webui",), False),
        ("off", ("--path", "/srv/page"), True),
        ("off", ("--path", "/srv/page", "--no-ui"), False),
        (None, (), False),
    ],
)
def test_a_server_has_the_web_page_of_its_release_or_a_folder_unless_it_is_off(
    built: str | None, argv: tuple[str, ...], has: bool, tmp_path: Path
) -> None:
    if built is not None:
        (tmp_path / "manifest.json").write_text(json.dumps({"name": "b1", "inputs": {"web_page": built}}))
    config = Instance(argv=("llama-server", *argv), release=Release(path=str(tmp_path)))
    assert has_web_page(config) is has
