"""Files beside a gateway's configuration: its own answers, in the form of OpenAI's API, its maps and its lists.

files = gateway_files(plan, settings)      # {"errors/503.http": …, "maps/models.map": …, "www/models.json": …}

Answers whose names end on ``.json`` are in HAProxy's log format: ``%[…]`` is filled in with each request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .pages import status_json
from .web_page import web_page_files

# HAProxy's own answers by status: the reason phrase, OpenAI's word for the kind, and the sentence.
OWN = {
    400: ("Bad Request", "invalid_request_error", "this is no request of HTTP, or its headers are too large"),
    403: ("Forbidden", "permission_error", "the gateway does not allow this"),
    408: ("Request Timeout", "timeout_error", "the request came too slowly: it has 30 s to arrive"),
    413: ("Payload Too Large", "invalid_request_error", "the body of the request is too large"),
    429: ("Too Many Requests", "rate_limit_error", "there were too many requests"),
    500: ("Internal Server Error", "server_error", "the gateway failed: its log says why"),
    502: ("Bad Gateway", "server_error", "the server ended before it had answered"),
    503: ("Service Unavailable", "overloaded_error", "no server of the model is up, or none had a free slot in time"),
    504: ("Gateway Timeout", "timeout_error", "the server did not answer in time"),
}  # fmt: skip
PATH, MODEL = "%[var(txn.path),json(utf8s)]", "%[var(txn.model),json(utf8s)]"
USER = "%[var(txn.user),json(utf8s)]"
NO_MODELS = "none: no instance was deployed to the hosts that it stands before"


def gateway_files(plan: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, str]:
    """The files of a gateway by their place below its folder, but for the configuration, programs and keys."""
    names = [model["name"] for model in plan["models"]]
    return {
        **{f"errors/{status}.http": own_answer(status, *of_status) for status, of_status in OWN.items()},
        "errors/no_nginx.http": own_answer(
            503, "Service Unavailable", "server_error", "nginx, which serves reports here, does not answer"
        ),
        **{f"errors/{name}.json": text for name, text in own_errors(names, settings["max_body_kib"]).items()},
        "errors/one_model.json": json.dumps(model_row(MODEL), separators=(",", ":")),
        "maps/models.map": lines(f"{model['name']} {model['backend']}" for model in plan["models"]),
        "www/models.json": json.dumps({"object": "list", "data": [model_row(name) for name in names]}) + "\n",
        "www/status.json": status_json(plan),
        **web_page_files(plan),
    }


def gateway_secrets(plan: Mapping[str, Any]) -> dict[str, str]:
    """The files of a gateway that hold keys, by their place below its folder."""
    return {"maps/instance_keys.map": lines(f"{backend} {key}" for backend, key in plan["instance_keys"].items())}


def own_errors(names: list[str], max_body_kib: int) -> dict[str, str]:
    """The errors that the gateway tells clients, by the names of their files."""
    known = ", ".join(names) or NO_MODELS
    invalid, forbidden = "invalid_request_error", "permission_error"
    return {
        "headers": error(invalid, "headers_too_large", "the request has more than 64 headers, or 16 KiB of them"),
        "origin": error(forbidden, "foreign_origin", "pages of other sites may not use this gateway"),
        "no_path": error(invalid, "unknown_url", f"the gateway has no {PATH}"),
        "no_page_method": error(invalid, "method_not_allowed", f"{PATH} is a page, and takes GET and nothing else"),
        "no_reports": error(
            invalid, "no_reports", "this gateway serves no reports: install nginx on it, or see gateway_reports"
        ),
        "no_web_page": error(
            invalid, "no_web_page", "no server here has llama.cpp's web page: see llama_cpp_web_page"
        ),
        "no_method": error(invalid, "method_not_allowed", f"{PATH} takes POST and nothing else"),
        "encoded": error(
            invalid, "unsupported_encoding", "the body is compressed: send it without Content-Encoding"
        ),
        "too_large": error(
            invalid,
            "request_too_large",
            f"the body of the request is larger than the {max_body_kib} KiB that the gateway takes "
            "(gateway_max_body_kib)",
        ),
        "problem": error(invalid, "invalid_body", "%[var(txn.problem),json(utf8s)]"),
        "internal": error(
            invalid, "internal_field", "%[var(txn.internal)] is for llama-server's own front ends: leave it out"
        ),
        "host": error(
            forbidden,
            "unknown_host",
            "the gateway is not known by the name that it was asked under: use localhost, or list that name in "
            "gateway_tls_names",
        ),
        **user_errors(),
        "no_model": error(
            invalid,
            "model_not_found",
            f"there is no model {MODEL}; there is {literal(known)}",
            param="model",
        ),
    }  # fmt: skip


def user_errors() -> dict[str, str]:
    """The errors about users, their keys and limits, by the names of their files."""
    limited = "rate_limit_error"
    return {
        "no_user": error(
            "authentication_error",
            "invalid_api_key",
            "this gateway knows no such key: send one of its keys as Authorization: Bearer KEY",
        ),
        "not_for_user": error(
            "permission_error",
            "model_not_allowed",
            f"{USER} may not use the model {MODEL}",
            param="model",
        ),
        "no_model_of_user": error(
            "invalid_request_error",
            "model_not_found",
            f"{USER} has no model {MODEL}: /v1/models lists those that there are",
            param="model",
        ),
        "uncounted": error(
            "invalid_request_error",
            "no_count",
            "answers to %[var(txn.uncounted),json(utf8s)] tell no count of tokens, and yours are limited: use the "
            "addresses of OpenAI's API below /v1, documents for texts, and no response_fields",
        ),
        "no_tokens_left": error(
            limited, "tokens_per_day", f"{USER} has used up the tokens of this day, which ends at midnight in UTC"
        ),
        "too_many_at_once": error(
            limited,
            "concurrent_requests",
            f"{USER} has %[var(txn.limit)] requests under way, and may have no more at a time",
        ),
        "too_many_a_minute": error(
            limited,
            "requests_per_minute",
            f"{USER} has sent the %[var(txn.requests_per_minute)] requests of this minute",
        ),
    }  # fmt: skip


def error(kind: str, code: str, message: str, param: str | None = None) -> str:
    """An error of OpenAI's API; ``message`` is in HAProxy's log format."""
    shape = {"error": {"message": "@", "type": kind, "param": param, "code": code}}
    return json.dumps(shape, separators=(",", ":")).replace("@", message)


def literal(text: str) -> str:
    """A text as it stands in a string of JSON and in HAProxy's log format."""
    return json.dumps(text, ensure_ascii=True)[1:-1].replace("%", "%%")


def own_answer(status: int, reason: str, kind: str, message: str) -> str:
    """One of HAProxy's own answers, with its headers."""
    body = error(kind, str(status), message) + "\n"
    head = (
        f"HTTP/1.1 {status} {reason}", "Content-Type: application/json", f"Content-Length: {len(body.encode())}",
        "Cache-Control: no-store",
    )  # fmt: skip
    return "\n".join([*head, "", body])


def model_row(name: str) -> dict[str, Any]:
    """A model in the list of OpenAI's API."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "llama-nexus"}


def lines(entries: Any) -> str:
    """The text of a file with a line for each entry."""
    return "".join(f"{entry}\n" for entry in entries)
