"""The server at an address: its kind, its model, its limits.

    with client.connect("http://gpu1:8600", api_key) as connected:
        server = endpoint.probe(connected)
        server.engine, server.model, server.n_ctx

``engine`` is ``llama.cpp`` where the server offers llama-server's own API (exact prompts, timings), else
``openai``: anything that speaks the OpenAI protocol, llama-server's router among it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from nexus_tasks.core.errors import EndpointDown, EndpointError, NotOpenAI, Unauthorized, UsageError
from nexus_tasks.hostlib.terminal_text import plain
from nexus_tasks.servers import answers
from nexus_tasks.servers.answers import count_of, name_of, object_of, text_of
from nexus_tasks.servers.client import NOT_OPENAI_HINT, ask
from nexus_tasks.servers.route import KEY_VARIABLE

LLAMA_CPP = "llama.cpp"
OPENAI = "openai"
API_PATH = "/v1"
"""The place of the OpenAI API below a base URL, on nearly every server."""

MODELS_NAMED = 8
OWNED_BY_LLAMA_SERVER = "llamacpp"
"""What llama-server says of its models; the ``Server`` header of its answers says it as well."""
STRANGER_TIMEOUT_S = 5.0
"""The longest answer of a server to what only llama-server has to offer."""
NO_LIST = (400, 404, 405, 410, 501)
"""What servers answer that have no list of models."""


@dataclass(frozen=True)
class Endpoint:
    """A server as it describes itself; what it does not tell is None. Sizes in bytes, lengths in tokens."""

    base_url: str
    engine: str
    model: str
    n_params: int | None = None
    n_ctx_train: int | None = None
    tensor_bytes: int | None = None
    model_path: str | None = None
    build: str | None = None
    api_path: str = API_PATH
    n_ctx: int | None = None
    """The context of one slot: what a prompt and its answer share."""
    total_slots: int | None = None


def probe(client: httpx.Client, *, model: str | None = None, api_path: str = API_PATH) -> Endpoint:
    """Ask a server what it is.

    Args:
        model: the one to ask for, of those that it serves; None takes the first.
        api_path: where its OpenAI API is below the base URL.

    Raises:
        UsageError: it does not serve this model.
        EndpointDown: nothing answers, or it is still loading its model.
        Unauthorized: it wants a key, or another one.
        NotOpenAI: it answers, but not as an OpenAI-compatible server does.
    """
    address = str(client.base_url).rstrip("/")
    served, is_llama_server = _model(client, address, api_path, model)
    if is_llama_server:
        _check_health(client, address)
    props = _props(client, None if is_llama_server else STRANGER_TIMEOUT_S)
    meta = object_of(served.get("meta"))
    settings = object_of(props.get("default_generation_settings"))
    slots = count_of(props.get("total_slots"))
    has_own_api = "build_info" in props and bool(slots)
    return Endpoint(
        base_url=address,
        engine=LLAMA_CPP if has_own_api else OPENAI,
        model=served["id"],
        n_params=count_of(meta.get("n_params")),
        n_ctx_train=count_of(meta.get("n_ctx_train")),
        tensor_bytes=count_of(meta.get("size")),
        model_path=name_of(props.get("model_path")) if has_own_api else None,
        build=name_of(props.get("build_info")),
        n_ctx=count_of(settings.get("n_ctx")) or count_of(meta.get("n_ctx")) or count_of(served.get("max_model_len")),
        api_path=api_path,
        total_slots=slots,
    )


def tokenize(client: httpx.Client, text: str, *, special: bool = False) -> list[int]:
    """The token ids of a text, by llama-server. With ``special``, special tokens count and BOS is added."""
    tokens = _post(client, "/tokenize", {"content": text, "add_special": special, "parse_special": special})
    ids = tokens.get("tokens")
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise NotOpenAI(f"{client.base_url} gave no token ids at /tokenize", hint=NOT_OPENAI_HINT)
    return ids


def apply_template(client: httpx.Client, messages: list[dict[str, str]]) -> str:
    """The prompt that a chat becomes, by llama-server."""
    prompt = _post(client, "/apply-template", {"messages": messages}).get("prompt")
    if not isinstance(prompt, str):
        raise NotOpenAI(f"{client.base_url} gave no prompt at /apply-template", hint=NOT_OPENAI_HINT)
    return prompt


def document(response: httpx.Response) -> Any:
    """The JSON of an answer; None where it holds something else."""
    try:
        return answers.json_of(response.content)
    except ValueError:
        return None


def message(client: httpx.Client, response: httpx.Response) -> str:
    """The message in an error answer, or its reason phrase; without the key, which some servers repeat."""
    told = answers.error_in(document(response))
    key = client.headers.get("authorization", "").removeprefix("Bearer ")
    return answers.shown(told or name_of(response.reason_phrase) or "no reason given", key)


def _model(client: httpx.Client, address: str, api_path: str, wanted: str | None) -> tuple[dict[str, Any], bool]:
    """The model to ask for, and whether the server says that it is a llama-server."""
    where = f"{api_path}/models"
    response = ask(client, "GET", where)
    status = response.status_code
    is_llama_server = response.headers.get("server", "").strip().lower() == "llama.cpp"
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        given = "refuses the key it was given" if "authorization" in client.headers else "wants an API key"
        raise Unauthorized(
            f"{address} {given} (HTTP {status})",
            hint=f"put the server's key into the environment variable {KEY_VARIABLE}; "
            "that of an inventory's instance belongs into its vault",
        )
    if response.is_redirect:
        to = response.headers.get("location", "").partition("?")[0]
        raise NotOpenAI(f"{address} redirects to {to or 'elsewhere'}", hint="give the address it redirects to")
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        raise EndpointDown(
            f"{address} is not ready: {message(client, response)}",
            hint="wait until its model is loaded; the server's log shows how far it is",
        )
    found = document(response)
    models = _models_in(found) if status == httpx.codes.OK else None
    if wanted is not None and not models and status in (httpx.codes.OK, *NO_LIST):
        return {"id": wanted}, is_llama_server  # not every server has a list, and with a name none is needed
    if status != httpx.codes.OK:
        raise NotOpenAI(
            f"{address}{where} answers HTTP {status}: {message(client, response)}",
            hint=f"{NOT_OPENAI_HINT}; one without a list of models needs the model's name, with --model",
        )
    if found is None and response.content.strip() != b"null":
        kind = response.headers.get("content-type", "something").partition(";")[0]
        raise NotOpenAI(f"{address}{where} answers with {kind} instead of JSON", hint=NOT_OPENAI_HINT)
    if models is None:
        raise NotOpenAI(f"{address}{where} answers with JSON that is no list of models", hint=NOT_OPENAI_HINT)
    if not models:
        raise NotOpenAI(f"{address} serves no model", hint="load one, or name one with --model, then measure again")
    unnamed = [name_of(model["id"]) for model in models if plain(model["id"]) != model["id"]]
    if unnamed:  # it is asked for by its name, and that is shown
        raise NotOpenAI(
            f"{address} names a model by characters that control terminals: {unnamed[0]}",
            hint="give the model another name, as llama-server's --alias does",
        )
    is_llama_server |= any(model.get("owned_by") == OWNED_BY_LLAMA_SERVER for model in models)
    if wanted is None:
        return models[0], is_llama_server
    # llama-server knows its model by further names.
    for model in models:
        aliases = model.get("aliases")
        if wanted == model["id"] or (isinstance(aliases, list) and wanted in aliases):
            return {**model, "id": wanted}, is_llama_server
    served = ", ".join(model["id"] for model in models[:MODELS_NAMED])
    more = f" and {len(models) - MODELS_NAMED} more" if len(models) > MODELS_NAMED else ""
    raise UsageError(f"{address} does not serve {wanted!r}", hint=f"it serves {served}{more}")


def _models_in(found: object) -> list[dict[str, Any]] | None:
    """The models of a list, each with a text as its ``id``; None where it is no list of models.

    Servers have it in ``data`` or bare, and where there are none, null.
    """
    if isinstance(found, dict):
        if "data" not in found:
            return None
        found = found["data"]
    if found is None:
        return []
    if not isinstance(found, list):
        return None
    models = []
    for entry in found:
        model = {"id": entry} if isinstance(entry, str) else object_of(entry)
        name = text_of(model.get("id")) or text_of(model.get("name"))
        if not name:
            return None
        models.append({**model, "id": name})
    return models


def _check_health(client: httpx.Client, address: str) -> None:
    """Go on only where a llama-server has loaded its model. Of other servers, /health may ask all their models.

    Raises:
        EndpointDown: it is still loading.
    """
    health = ask(client, "GET", "/health")
    if health.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise EndpointDown(
            f"{address} is not ready: {message(client, health)}",
            hint="wait until its model is loaded; the server's log shows how far it is",
        )


def _props(client: httpx.Client, timeout_s: float | None) -> dict[str, Any]:
    """llama-server's properties; empty where there are none, as on every other server, which may not even answer."""
    try:
        response = ask(client, "GET", "/props", timeout_s=timeout_s)
    except EndpointError:
        if timeout_s is None:
            raise
        return {}
    return object_of(document(response)) if response.status_code == httpx.codes.OK else {}


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = ask(client, "POST", path, body)
    if response.status_code != httpx.codes.OK:
        raise EndpointError(
            f"{client.base_url} answers HTTP {response.status_code} at {path}: {message(client, response)}",
            hint="look into the server's log",
        )
    return object_of(document(response))
