"""Models that a user of the gateway is told of, by real HAProxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from plugins.module_utils.gateway.runtime_api import RuntimeApi
from plugins.plugin_utils.gateway.answers import gateway_files
from tests.conftest import ROOT
from tests.support.haproxy import Haproxy, needs_haproxy, running_haproxy

pytestmark = needs_haproxy


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Haproxy]:
    models: list[dict[str, object]] = [
        {"name": name, "backend": f"model_{name}", "mode": "chat", "servers": []} for name in ("a", "org/b.1", "c")
    ]
    plan = {"models": models, "web_page": None, "unproven": [], "hosts": [], "servers": []}
    text = gateway_files(plan, {"max_body_kib": 2048})["www/models.json"]
    (tmp_path / "models.json").write_text(text)
    allowed = tmp_path / "user_models.map"
    allowed.write_text("ada/a 1\nada/org/b.1 1\neve/gone 1\n")
    globals_ = (
        f"setenv MODELS_LIST {tmp_path}/models.json\n  setenv USER_MODELS_MAP {allowed}\n"
        f"  lua-load {ROOT}/roles/gateway/files/models.lua"
    )
    rules = f"""
  http-request set-var(txn.user) req.hdr(x-user)
  http-request set-var(txn.map) str(x),map_str({allowed})
  http-request use-service lua.models_of_user
"""
    with running_haproxy(tmp_path, rules, globals_) as made:
        yield made


def models_of(haproxy: Haproxy, user: str) -> list[str]:
    listed = httpx.get(f"{haproxy.url}/v1/models", headers={"X-User": user}, timeout=30).json()
    assert listed["object"] == "list"
    return [model["id"] for model in listed["data"]]


def test_a_user_is_told_of_the_models_that_are_allowed(haproxy: Haproxy) -> None:
    assert models_of(haproxy, "ada") == ["a", "org/b.1"]
    assert models_of(haproxy, "eve") == []


def test_a_model_that_is_allowed_while_it_runs_is_told_at_once(haproxy: Haproxy, tmp_path: Path) -> None:
    assert models_of(haproxy, "ada") == ["a", "org/b.1"]
    RuntimeApi(str(haproxy.socket)).command(f"add map {tmp_path}/user_models.map ada/c 1")
    assert models_of(haproxy, "ada") == ["a", "org/b.1", "c"]


def test_a_head_has_no_body(haproxy: Haproxy) -> None:
    answer = httpx.head(f"{haproxy.url}/v1/models", headers={"X-User": "ada"}, timeout=30)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0
