"""What becomes of each option of an instance."""

from __future__ import annotations

from nexus_tasks.fleet import server_options
from nexus_tasks.measurement.llama_bench import settings

# Options that change how fast a server is and that llama-bench knows nothing of.
NOT_OF_BENCH = {
    "swa_full", "rope_scaling", "rope_scale", "yarn_orig_ctx", "lora", "model_draft", "n_gpu_layers_draft",
    "device_draft", "spec_type", "spec_draft_n_max", "spec_draft_n_min", "spec_draft_p_min", "pooling",
}  # fmt: skip
REFUSED = {"embeddings", "reranking", "models", "models_max", "models_autoload"}


def test_of_each_option_of_an_instance_it_is_decided_what_becomes_of_it() -> None:
    taken = settings.BENCH_TAKES.keys() | settings.BENCH_SWITCHES.keys() | {"cpu_moe", "override_tensor"}
    known = settings.SERVING | taken | NOT_OF_BENCH | REFUSED | {"threads", "threads_batch", "kv_unified"}
    assert set(server_options.rules().flags) - known == set()
    assert not (settings.SERVING & settings.BATCHED_TAKES)
