"""A multimodal projector for the tiny model: llava's, one layer deep, with random weights.

write(path)      makes the file that llama-server takes as --mmproj
image()          a picture; it becomes TOKENS tokens, of which the tiny model makes no more sense than of anything else
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from nexus_tasks.model_store.tiny_model import Shape

EMBEDDING, HEADS, FEED_FORWARD = 64, 2, 128
IMAGE, PATCH = 28, 14
TOKENS = (IMAGE // PATCH) ** 2


def image() -> bytes:
    """A BMP file of the size that the projector takes, all grey."""
    pixels = bytes([128]) * (IMAGE * IMAGE * 3)  # rows of 84 bytes need no padding
    header = struct.pack("<IiiHHIIiiII", 40, IMAGE, IMAGE, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels


def write(path: Path) -> None:
    """Write the projector. Keys and names of tensors are those of llama.cpp's tools/mtmd/clip-impl.h."""
    random = np.random.default_rng(0)
    into = Shape().n_embd

    def matrix(n_out: int, n_in: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return random.standard_normal((n_out, n_in), dtype=np.float32) / np.float32(n_in**0.5)

    writer = GGUFWriter(path, "clip")
    writer.add_name("tiny-projector")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_uint32("clip.vision.image_size", IMAGE)
    writer.add_uint32("clip.vision.patch_size", PATCH)
    writer.add_uint32("clip.vision.embedding_length", EMBEDDING)
    writer.add_uint32("clip.vision.feed_forward_length", FEED_FORWARD)
    writer.add_uint32("clip.vision.projection_dim", into)
    writer.add_uint32("clip.vision.block_count", 1)
    writer.add_uint32("clip.vision.attention.head_count", HEADS)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_bool("clip.use_gelu", True)

    writer.add_tensor("v.class_embd", random.standard_normal(EMBEDDING, dtype=np.float32))
    kernel = random.standard_normal((EMBEDDING, 3, PATCH, PATCH), dtype=np.float32)
    writer.add_tensor("v.patch_embd.weight", kernel.astype(np.float16))
    writer.add_tensor("v.position_embd.weight", matrix(TOKENS + 1, EMBEDDING))
    for name in ("v.pre_ln", "v.blk.0.ln1", "v.blk.0.ln2"):
        writer.add_tensor(f"{name}.weight", np.ones(EMBEDDING, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(EMBEDDING, dtype=np.float32))
    sizes = {
        "v.blk.0.attn_q": (EMBEDDING, EMBEDDING),
        "v.blk.0.attn_k": (EMBEDDING, EMBEDDING),
        "v.blk.0.attn_v": (EMBEDDING, EMBEDDING),
        "v.blk.0.attn_out": (EMBEDDING, EMBEDDING),
        "v.blk.0.ffn_up": (FEED_FORWARD, EMBEDDING),
        "v.blk.0.ffn_down": (EMBEDDING, FEED_FORWARD),
        "mm.0": (into, EMBEDDING),
        "mm.2": (into, into),
    }
    for name, (n_out, n_in) in sizes.items():
        writer.add_tensor(f"{name}.weight", matrix(n_out, n_in))
        writer.add_tensor(f"{name}.bias", np.zeros(n_out, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
