"""Write a small but real GGUF model that needs no download: the quickstart's and the tests' model.

    python -m nexus_tasks.model_store.tiny_model models/tiny-babble.gguf

Its weights are random, so it babbles; everything else about it is true: a llama architecture that llama.cpp
loads like any other, a tokenizer for ASCII text, a chat template, and enough work per token that a benchmark
measures decoding rather than HTTP. Two properties are built in on purpose:

- Every token is a whole ASCII string. llama-server holds back bytes of unfinished UTF-8, so with a byte
  vocabulary tokens and streamed chunks would not correspond, and token timings would be wrong.
- The end-of-text token is practically never sampled, so a request for N tokens gives N tokens even where
  ``ignore_eos`` can't be asked for.

Characters outside ASCII are unknown to the tokenizer and drop out of prompts.

The same versions of gguf and numpy write the same bytes every time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

from nexus_tasks.core.errors import UsageError, command_line

NAME = "tiny-babble"
SEED = 20260101
END_OF_TEXT = "<|end|>"

# Line ends are spelled out: template engines differ in which of the template's own they strip.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- message.role + ': ' + message.content -}}
    {%- if message.role == 'assistant' -%} {{- eos_token -}} {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%} {{- 'assistant:' -}} {%- endif -%}
"""

# Channel 0 of the residual stream is a constant that no layer reads or writes. llama has no output bias; this
# channel, read by the output matrix alone, serves as one.
BIAS_CHANNEL_INPUT = 16.0
NEVER = -4.0  # gives log-probabilities around -30
OFTEN = 0.4  # keeps single characters, all but a few, out of the babble


@dataclass(frozen=True)
class Shape:
    """The size of a llama model. The defaults decode a few hundred tokens per second on two cores."""

    n_layer: int = 12
    n_embd: int = 512
    n_head: int = 8
    n_head_kv: int = 4
    n_ff: int = 1536
    n_ctx_train: int = 16384


@dataclass(frozen=True)
class Vocabulary:
    """Tokens as GPT-2 spells them (a space is Ġ), the merges that build them, how much each is favoured."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    bias: tuple[float, ...]

    @property
    def end_of_text(self) -> int:
        """The id of the one control token."""
        return len(self.tokens) - 1


def gpt2_spelling(text: str) -> str:
    """``text`` as GPT-2 vocabularies write it: control characters and the space are moved up by 256."""
    return "".join(chr(ord(char) + 256) if char <= " " else char for char in text)


def vocabulary() -> Vocabulary:
    """Printable ASCII characters, syllables with and without a leading space, and one control token."""
    white = "\t\n\r"  # read in prompts, practically never written
    characters = [chr(code) for code in range(ord(" "), ord("~") + 1)]
    syllables = [consonant + vowel for consonant in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou"]
    rows = [
        *((char, NEVER) for char in white),
        *((char, 0.0) for char in characters),
        *((syllable, OFTEN) for syllable in syllables),
        *((" " + syllable, OFTEN) for syllable in syllables),
    ]
    return Vocabulary(
        tokens=(*(gpt2_spelling(text) for text, _ in rows), END_OF_TEXT),
        merges=(*(" ".join(text) for text in syllables), *(f"Ġ {text}" for text in syllables)),
        bias=(*(bias for _, bias in rows), NEVER),
    )


def write(path: Path, *, shape: Shape = Shape(), seed: int = SEED) -> str:
    """Write the model to ``path`` and return the file's sha256.

    The file takes its name only when it is whole.

    Raises:
        UsageError: the file can't be written there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_gguf(partial, shape, seed)
            with partial.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"the model can't be written to {path}: {error.strerror or error}",
            hint="name a file in a folder that is writable and has 80 MB free",
        ) from error
    return digest


def _write_gguf(path: Path, shape: Shape, seed: int) -> None:
    words = vocabulary()
    writer = GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_description("Random weights: it babbles. For trying out and testing a deployment.")
    writer.add_license("MIT")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(len(words.tokens))
    writer.add_context_length(shape.n_ctx_train)
    writer.add_block_count(shape.n_layer)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words.tokens)
    writer.add_token_types([TokenType.NORMAL] * words.end_of_text + [TokenType.CONTROL])
    writer.add_token_merges(words.merges)
    writer.add_bos_token_id(words.end_of_text)
    writer.add_eos_token_id(words.end_of_text)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    _add_tensors(writer, shape, words, np.random.default_rng(seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tensors(writer: GGUFWriter, shape: Shape, words: Vocabulary, rng: np.random.Generator) -> None:
    """Add all tensors; a matrix has one row per output."""
    n_embd, n_ff = shape.n_embd, shape.n_ff
    n_kv = n_embd // shape.n_head * shape.n_head_kv

    def matrix(n_out: int, n_in: int, gain: float = 1.0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return rng.standard_normal((n_out, n_in), dtype=np.float32) * np.float32(gain / n_in**0.5)

    embedding = rng.standard_normal((len(words.tokens), n_embd), dtype=np.float32)
    embedding[:, 0] = BIAS_CHANNEL_INPUT
    output = matrix(len(words.tokens), n_embd, gain=3.0)
    output[:, 0] = words.bias
    output[words.end_of_text, 1:] = 0
    hide_bias = np.ones(n_embd, dtype=np.float32)
    hide_bias[0] = 0

    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    for layer in range(shape.n_layer):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", hide_bias)
        writer.add_tensor(f"{block}.attn_q.weight", matrix(n_embd, n_embd, gain=2.0).astype(np.float16))
        writer.add_tensor(f"{block}.attn_k.weight", matrix(n_kv, n_embd, gain=2.0).astype(np.float16))
        writer.add_tensor(f"{block}.attn_v.weight", matrix(n_kv, n_embd).astype(np.float16))
        writer.add_tensor(f"{block}.ffn_norm.weight", hide_bias)
        writer.add_tensor(f"{block}.ffn_gate.weight", matrix(n_ff, n_embd).astype(np.float16))
        writer.add_tensor(f"{block}.ffn_up.weight", matrix(n_ff, n_embd).astype(np.float16))
        for name, n_in in (("attn_output", n_embd), ("ffn_down", n_ff)):
            into_residual = matrix(n_embd, n_in)
            into_residual[0] = 0
            writer.add_tensor(f"{block}.{name}.weight", into_residual.astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(n_embd, dtype=np.float32))
    writer.add_tensor("output.weight", output.astype(np.float16))


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write the tiny model and print its sha256."""
    parser = argparse.ArgumentParser(prog="python -m nexus_tasks.model_store.tiny_model", description=main.__doc__)
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the GGUF file to write")
    args = parser.parse_args(argv)
    sys.stdout.write(f"{write(args.output)}  {args.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
