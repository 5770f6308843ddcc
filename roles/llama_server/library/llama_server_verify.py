#!/usr/bin/python
"""Ansible module: proof that a llama-server serves what was declared."""

from __future__ import annotations

DOCUMENTATION = r"""
module: llama_server_verify
short_description: Prove that a llama-server serves what was declared
description:
  - Waits until the server has loaded, then compares what runs and what it answers with its instance file, and times
    one completion. Health alone proves none of this.
  - A server that dies while loading is reported at once, with the end of its log.
options:
  instance:
    description: The instance file, as role llama_server writes it.
    type: path
    required: true
  timeout:
    description: Seconds that the server may take to load.
    type: int
    default: 60
  tokens:
    description: How many tokens the timed completion asks for.
    type: int
    default: 32
author: Llama Nexus
"""
EXAMPLES = r"""
- name: Prove the instance
  llama_server_verify:
    instance: /opt/llama-nexus/instances/main.json
"""
RETURN = r"""
checks:
  description: What was compared, each with check, expected, found and ok.
  returned: always
  type: list
tokens_per_second:
  description: Decode speed of the timed completion, by the server's own timings.
  returned: success
  type: float
waited_seconds:
  description: How long the server took to answer, counted from this call.
  returned: always
  type: float
log_tail:
  description: The last lines of the server's log.
  returned: failure
  type: list
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule

LOG_LINES = 50
REQUEST_SECONDS = 120
ANOTHER_LIFE = 2  # a server that died once may have met a passing fault; twice is a server that can't start


class NotProven(Exception):
    """What is wrong, and the likely cause."""


def ask(url: str, key: str | None = None, body: dict | None = None) -> tuple[int, dict]:
    """One request to the server on this host: the status and the JSON that came with it.

    Raises OSError where nothing answers.
    """
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None)  # noqa: S310 - http to this host
    request.add_header("Content-Type", "application/json")
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    # No proxy: the server is on this host, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=REQUEST_SECONDS) as response:
            status, raw = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, raw = error.code, error.read()
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = {}
    return status, answer if isinstance(answer, dict) else {}


def running_argv(process_file: str) -> tuple[int | None, list[str]]:
    """The process that the launcher became and its command line; (None, []) when it is not alive."""
    try:
        with open(process_file, encoding="utf-8") as stream:
            pid = json.load(stream)["pid"]
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            words = stream.read().split(b"\0")[:-1]
    except (OSError, ValueError):
        return None, []
    # A process that ended and was not yet reaped has an empty command line.
    return (pid, [word.decode(errors="replace") for word in words]) if words else (None, [])


def wait_until_loaded(instance: dict, timeout: int) -> float:
    """Seconds until /health said 200.

    Raises NotProven when the deadline passes or the server dies again and again.
    """
    started = time.monotonic()
    lives: list[int] = []
    answered = "nothing answers"
    while True:
        pid, _ = running_argv(instance["process_file"])
        if pid and pid not in lives:
            lives.append(pid)
        try:
            status, _ = ask(instance["local_url"] + "/health")
            if status == 200 and pid:
                return time.monotonic() - started
            answered = f"/health answers {status}"
        except (OSError, http.client.HTTPException):
            pass
        waited = time.monotonic() - started
        if len(lives) > ANOTHER_LIFE or (waited > 10 and not pid):
            raise NotProven("the server ends while it starts: the log says why")
        if waited > timeout:
            raise NotProven(
                f"the server is not ready after {timeout} s ({answered}): see the log, or raise "
                "llama_server_start_timeout for a slow disk"
            )
        time.sleep(0.2)


def padded(tokens: int) -> int:
    """The context length that the server makes of a wanted one: the next multiple of 256."""
    return (tokens + 255) // 256 * 256


class Proof:
    """The table of what was compared."""

    def __init__(self) -> None:
        self.checks: list[dict] = []

    def compare(self, check: str, expected: object, found: object, cause: str) -> None:
        self.checks.append(
            {"check": check, "expected": expected, "found": found, "ok": expected == found, "cause": cause}
        )

    def failures(self) -> list[str]:
        return [
            f"{row['check']}: expected {row['expected']}, found {row['found']} ({row['cause']})"
            for row in self.checks
            if not row["ok"]
        ]


def prove(instance: dict, timeout: int, tokens: int, proof: Proof) -> dict:
    waited = wait_until_loaded(instance, timeout)
    url, key = instance["local_url"], None
    if instance["api_key_file"]:
        with open(instance["api_key_file"], encoding="utf-8") as stream:
            key = stream.readline().strip()
        # /v1/models is public in llama-server; /props is not.
        refused, _ = ask(url + "/props")
        proof.compare("without the key", 401, refused, "the server runs without --api-key-file")

    _, argv = running_argv(instance["process_file"])
    proof.compare("command line", instance["argv"], argv, "an older server is still running; deploy again")
    status, props = ask(url + "/props", key)
    proof.compare("/props", 200, status, "something other than this llama-server answers on the port")
    _, models = ask(url + "/v1/models", key)
    served = [model.get("id") for model in models.get("data", []) if isinstance(model, dict)]
    proof.compare("model id", [instance["model"]["name"]], served, "another server answers on the port")
    proof.compare("model file", instance["model"]["path"], props.get("model_path"), "another model was loaded")
    commit = instance["release"]["commit"][:9]
    build = str(props.get("build_info", ""))
    proof.compare("build", commit, commit if commit in build else build, "another release answers")
    slots = props.get("total_slots")
    if instance["parallel"] is not None:
        proof.compare("slots", instance["parallel"], slots, "the server chose another number")
    context = props.get("default_generation_settings", {}).get("n_ctx")
    if instance["ctx_size"]:
        # Shared by the slots when unified, divided among them otherwise.
        whole = padded(instance["ctx_size"])
        expected = whole if context == whole else padded(instance["ctx_size"] // (slots or 1))
        proof.compare("context per slot", expected, context, "it did not fit the memory, or the model's own is shorter")

    speed = None
    if not {"--embeddings", "--reranking"} & set(instance["argv"]):
        body = {"prompt": "Once upon a time", "n_predict": tokens, "ignore_eos": True, "cache_prompt": False}
        status, answer = ask(url + "/completion", key, body)
        timings = answer.get("timings", {})
        proof.compare("completion", 200, status, str(answer.get("error", {}).get("message", "see the log")))
        proof.compare("tokens generated", tokens, timings.get("predicted_n"), "decoding stopped early; see the log")
        speed = timings.get("predicted_per_second")
    return {
        "waited_seconds": round(waited, 2),
        "tokens_per_second": round(speed, 1) if speed else None,
        "n_ctx": context,
        "slots": slots,
        "build": build,
    }


def log_tail(path: str) -> list[str]:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, os.path.getsize(path) - 64 * 1024))
            return stream.read().decode(errors="replace").splitlines()[-LOG_LINES:]
    except OSError as error:
        return [f"(no log at {path}: {error.strerror})"]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "instance": {"type": "path", "required": True},
            "timeout": {"type": "int", "default": 60},
            "tokens": {"type": "int", "default": 32},
        },
        supports_check_mode=True,
    )
    path = module.params["instance"]
    try:
        with open(path, encoding="utf-8") as stream:
            instance = json.load(stream)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"no instance is deployed at {path} ({error}): run deploy.yml for this host first")
    proof = Proof()
    try:
        result = prove(instance, module.params["timeout"], module.params["tokens"], proof)
        wrong = proof.failures()
    except (NotProven, OSError) as error:
        result, wrong = {}, [str(error)]
    except http.client.HTTPException as error:
        result, wrong = {}, [f"what answers at {instance['local_url']} does not speak HTTP ({error!r})"]
    if wrong:
        tail = log_tail(instance["log"])
        module.fail_json(
            msg="\n".join(
                [
                    f"instance {instance['name']} does not serve what was declared: {'; '.join(wrong)}",
                    f"The last {len(tail)} lines of {instance['log']}:",
                    *tail,
                ]
            ),
            checks=proof.checks,
            log_tail=tail,
        )
    module.exit_json(changed=False, checks=proof.checks, **result)


if __name__ == "__main__":
    main()
