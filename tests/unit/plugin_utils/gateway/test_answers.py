"""Files beside a gateway's configuration."""

from __future__ import annotations

import json
import re
from typing import Any

from plugins.plugin_utils.gateway.answers import OWN, gateway_files, gateway_secrets

PLAN: dict[str, Any] = {
    "models": [
        {"name": 'odd"%name', "backend": "model_odd", "mode": "completion", "servers": []},
        {"name": "tiny", "backend": "model_tiny", "mode": "completion", "servers": []},
    ],
    "instance_keys": {"model_tiny": "secret-secret"},
    "web_page": None,
}


def files(**plan: Any) -> dict[str, str]:
    return gateway_files({**PLAN, **plan}, {"max_body_kib": 512})


def test_every_answer_is_an_error_of_openais_api() -> None:
    made = files()
    assert {f"errors/{status}.http" for status in OWN} < set(made)
    for name, text in made.items():
        if not name.startswith("errors/") or name == "errors/one_model.json":
            continue
        head, _, body = text.rpartition("\n\n") if name.endswith(".http") else ("", "", text)
        said = json.loads(re.sub(r"%\[[^]]*\]", "x", body).replace("%%", "%"))["error"]
        assert set(said) == {"message", "type", "param", "code"}, name
        assert said["message"], name
        if head:
            assert f"Content-Length: {len(body.encode())}" in head, name


def test_names_of_models_are_quoted_for_json_and_for_the_log_format() -> None:
    text = files()["errors/no_model.json"]
    assert 'odd\\"%%name, tiny' in text
    assert files(models=[])["errors/no_model.json"].count("no instance was deployed") == 1


def test_maps_have_a_line_for_each_and_keys_are_apart() -> None:
    made = files()
    assert made["maps/models.map"] == 'odd"%name model_odd\ntiny model_tiny\n'
    assert "secret" not in "".join(made.values())
    assert gateway_secrets(PLAN) == {"maps/instance_keys.map": "model_tiny secret-secret\n"}
