"""What the report calls each metric."""

from __future__ import annotations

# What the report calls a metric, its unit, and whether more of it is better.
METRICS: dict[str, tuple[str, str, bool]] = {
    "ttft_ms": ("Time to first token", "ms", False),
    "ttft_visible_ms": ("Time to first visible token", "ms", False),
    "queue_ms": ("TTFT that was not prefill", "ms", False),
    "itl_ms": ("Inter-token latency", "ms", False),
    "tpot_ms": ("Time per output token", "ms", False),
    "total_ms": ("Whole request", "ms", False),
    "decode_tps": ("Decode rate of a request", "tokens/s", True),
    "prefill_tps": ("Prefill rate (server)", "tokens/s", True),
    "late_ms": ("Sent too late", "ms", False),
}
TILES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "decode_tps": "Decode", "prefill_tps": "Prefill"}
RATES = {"output_tps": ("Output", "tokens/s"), "requests_per_s": ("Requests", "requests/s")}
