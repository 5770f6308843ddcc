"""Reads from a llama-server's log what it says of its memory, at --log-verbosity 4."""

from __future__ import annotations

import re

from ...hostlib.instances import Placement

# What llama.cpp prints of its memory at --log-verbosity 4, behind the device's name.
BUFFER = re.compile(r":\s+(\S+)\s+(model|KV|RS|compute|output) buffer size =\s*([\d.]+) MiB")
LOAD = re.compile(r"load_model: loading model '")  # a server that slept loads its model anew
OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
PROJECTOR = re.compile(r"CLIP using (\S+) backend")
KINDS = {"model": "model", "KV": "kv", "RS": "kv", "compute": "compute", "output": "compute"}


def loads_in(log: list[str]) -> list[int]:
    """The numbers of the lines at which a server begins to load its model."""
    return [number for number, line in enumerate(log) if LOAD.search(line)]


def placement(log: list[str]) -> Placement:
    """The placement that a server's log tells of its last load: buffers by device, and the offloaded layers.

    A draft model's or a projector's buffers are added to the model's on the same device.
    """
    loads = loads_in(log)
    log = log[loads[-1] :] if loads else log
    offloaded: list[int] | None = None
    buffers: dict[str, dict[str, float]] = {}
    projector = None
    for line in log:
        used = PROJECTOR.search(line)
        if used:
            projector = used[1]
        layers = OFFLOADED.search(line)
        if layers and offloaded is None:  # the first is the model's; a draft model says it again
            offloaded = [int(layers[1]), int(layers[2])]
        buffer = BUFFER.search(line)
        if buffer:
            sizes = buffers.setdefault(buffer[1], {})
            kind = KINDS[buffer[2]]
            sizes[kind] = round(sizes.get(kind, 0.0) + float(buffer[3]), 2)
    return Placement.from_json({"offloaded": offloaded, "buffers_mib": buffers, "projector": projector})
