"""HAProxy as a host has it: found, old, without Lua, and what it says of a configuration."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from plugins.module_utils.gateway import haproxy
from plugins.module_utils.gateway.errors import GatewayError
from tests.conftest import free_port


def program(folder: Path, said: str) -> str:
    """A program that says this, whatever it is asked."""
    path = folder / "haproxy"
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{said}\nEOF\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("HAProxy version 2.4.22-0ubuntu0.22.04.3 2024/01/01\n +LUA", "HAProxy version 2.4.22-0ubuntu0.22.04.3 is too"),
        ("HAProxy version 1.8.27 2020/11/06", "install 2.6 or newer"),
        ("HAProxy version 2.8.5 2024/01/01\nFeature list : -LUA +SSL", "was built without Lua"),
        ("something else", "does not tell its version"),
    ],
)
def test_one_that_will_not_do_is_named_with_what_is_missing(tmp_path: Path, said: str, words: str) -> None:
    with pytest.raises(GatewayError) as error:
        haproxy.refuse(program(tmp_path, said))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("said", ["HAProxy version 2.6.12-1 x\n +LUA", "HAProxy version 3.2.1 x\nUSE_LUA=1"])
def test_one_that_will_do_is_taken(tmp_path: Path, said: str) -> None:
    path = program(tmp_path, said)
    assert haproxy.refuse(path) == path


def test_where_there_is_none_the_package_is_named() -> None:
    with pytest.raises(GatewayError, match="install the package haproxy"):
        haproxy.refuse(None)


def test_it_is_found_where_an_ordinary_user_does_not_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = program(tmp_path, "")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(haproxy, "PLACES", (str(tmp_path),))
    assert haproxy.find() == path
    monkeypatch.setattr(haproxy, "PLACES", ())
    assert haproxy.find() is None


@pytest.mark.skipif(haproxy.find() is None, reason="haproxy is not installed")
def test_of_a_configuration_the_first_problem_is_told_in_one_line(tmp_path: Path) -> None:
    real = haproxy.find()
    assert real
    assert shutil.which(real)
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text("frontend x\n    bind 127.0.0.1:0x\n    nonsense here\n")
    problem = haproxy.check(real, str(configuration))
    assert problem
    assert "\n" not in problem
    assert "haproxy.cfg:" in problem
    times = "timeout client 1s\n timeout server 1s\n timeout connect 1s"
    configuration.write_text(f"defaults\n mode http\n {times}\nlisten x\n bind 127.0.0.1:{free_port()}\n")
    assert haproxy.check(real, str(configuration)) is None
