"""Probe requests: what makes a model compute, and what a refusal says."""

from __future__ import annotations

from typing import Any


def probe_of(mode: str, tokens: int) -> tuple[str, str, dict[str, Any]]:
    """A request that makes a model compute: the name of the check, the path and the body."""
    if mode == "embedding":
        return "embedding", "/v1/embeddings", {"input": "Once upon a time"}
    if mode == "reranking":
        documents = ["Paris is in France.", "Bread is baked."]
        return "reranking", "/v1/rerank", {"query": "Where is Paris?", "documents": documents}
    return "completes", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": tokens, "ignore_eos": True}


def error_message(answer: object) -> str:
    """The message of a server's answer that is an error, or a hint at its log."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("message", "see the log")) if isinstance(error, dict) else "see the log"
