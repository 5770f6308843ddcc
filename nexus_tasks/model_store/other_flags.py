"""Flags of the pinned llama-server that memory does not depend on, or not by the rules; a test holds them to --help.

check_known(["--temp", "--tmep"])           UsageError: llama-server has no option --tmep
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from nexus_tasks.core.errors import UsageError

from .server_options import known_flags

OTHERS = frozenset(
    """
    --adaptive-decay --adaptive-target --agent --alias --api-key --api-key-file --api-prefix --cache-idle-slots
    --cache-list --cache-prompt --cache-reuse --chat-template --chat-template-file --chat-template-kwargs
    --check-tensors --checkpoint-min-step --completion-bash --cont-batching --context-shift
    --control-vector-layer-range --cors-credentials --cors-headers --cors-methods --cors-origins --cpu-mask
    --cpu-mask-batch --cpu-mask-batch-draft --cpu-mask-draft --cpu-range --cpu-range-batch --cpu-range-draft
    --cpu-strict --cpu-strict-batch --cpu-strict-batch-draft --cpu-strict-draft --defrag-thold
    --docker-repo --draft-p-min --draft-p-split
    --dry-allowed-length --dry-base --dry-multiplier --dry-penalty-last-n --dry-sequence-breaker --dynatemp-exp
    --dynatemp-range --embd-normalize --escape
    --fit-ctx --fit-target
    --frequency-penalty --grammar --grammar-file --help --hf-file
    --hf-repo --hf-token --host --ignore-eos --image-max-tokens --image-min-tokens --jinja
    --json-schema --json-schema-file --keep --lazy-mode --list-devices --log-colors --log-disable --log-file
    --log-jsonl --log-prefix --log-prompts-dir --log-timestamps --log-verbose --log-verbosity --logit-bias
    --lookup-cache-dynamic --lookup-cache-static --lora-init-without-apply --mcp-servers-config --mcp-servers-json
    --media-path --metrics --min-p --mirostat --mirostat-ent --mirostat-lr --mmproj-auto
    --model --model-url --models-autoload --models-max --mtmd-batch-max-tokens --n-predict --no-agent
    --no-cache-idle-slots --no-cache-prompt --no-cont-batching --no-context-shift --no-cors-credentials --no-escape
    --no-jinja --no-log-jsonl --no-log-prefix --no-log-timestamps --no-mmproj --no-mmproj-auto --no-models-autoload
    --no-perf --no-prefill-assistant --no-reasoning-preserve --no-skip-chat-parsing --no-slots
    --no-spec-draft-backend-sampling --no-ui --no-ui-mcp-proxy --no-warmup --no-webui --no-webui-mcp-proxy --numa
    --offline --path --perf --poll --poll-batch --poll-batch-draft --poll-draft --port --predict --prefill-assistant
    --presence-penalty --prio --prio-batch --prio-batch-draft --prio-draft --props --reasoning --reasoning-budget
    --reasoning-budget-message --reasoning-effort --reasoning-format --reasoning-preserve --repeat-last-n
    --repeat-penalty --reuse-port --reverse-prompt --rope-freq-base --rope-freq-scale --rope-scale --rope-scaling
    --sampler-seq --samplers --sampling-seq --seed --skip-chat-parsing --sleep-idle-seconds --slot-prompt-similarity
    --slot-save-path --slots --spec-draft-backend-sampling --spec-draft-cpu-mask
    --spec-draft-cpu-mask-batch --spec-draft-cpu-range --spec-draft-cpu-strict --spec-draft-cpu-strict-batch
    --spec-draft-n-min --spec-draft-p-min --spec-draft-p-split --spec-draft-poll
    --spec-draft-poll-batch --spec-draft-prio --spec-draft-prio-batch --spec-draft-sampling --spec-draft-threads
    --spec-draft-threads-batch --spec-ngram-map-k-min-hits --spec-ngram-map-k-size-n
    --spec-ngram-map-k4v-min-hits --spec-ngram-map-k4v-size-n
    --spec-ngram-mod-n-match --spec-ngram-mod-n-min --spec-ngram-simple-min-hits
    --spec-ngram-simple-size-n --spec-synth-len
    --spec-synth-rates --special --spm-infill --sse-ping-interval --ssl-cert-file --ssl-key-file --tags --temp
    --temperature --threads --threads-batch --threads-batch-draft --threads-draft --threads-http --timeout --tools
    --tools-runtime --top-k --top-n-sigma --top-nsigma --top-p --typical --typical-p --ui --ui-config
    --ui-config-file --ui-mcp-proxy --usage --verbose --verbosity --version --video-ffmpeg-dir --video-fps
    --video-timestamp-interval --warmup --webui --webui-config
    --webui-config-file --webui-mcp-proxy --xtc-probability --xtc-threshold --yarn-attn-factor --yarn-beta-fast
    --yarn-beta-slow --yarn-ext-factor --yarn-orig-ctx -C -Cb -Cbd -Cd -Cr -Crb -Crd -a -ag -cb -cl -cms -dr
    -dt -e -fitc -fitt -h -hf -hff -hfr -hft -j -jf -l -lcd -lcs -lv -lzm -m -mu -n -no-ag
    -nocb -r -rea -s -sp -sps -t -tb -tbd -td -to -v
    """.split()  # noqa: SIM905 - a list would be one flag a line
)


# Those of them that name the model.
OF_MODELS = frozenset({
    "-m", "--model", "-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file",
})  # fmt: skip


def check_known(flags: Iterable[str]) -> None:
    """Raise UsageError for the first of some flags that llama-server does not have, or that name another model."""
    for flag in flags:
        if flag in OF_MODELS:
            raise UsageError(f"{flag} names a model beside MODEL", hint="give MODEL alone, without a flag")
        if flag not in OTHERS:
            near = difflib.get_close_matches(flag, [*OTHERS, *known_flags()], n=1, cutoff=0.7)
            meant = f"did you mean {near[0]}?" if near else "llama-server --help lists its options"
            raise UsageError(f"llama-server has no option {flag}", hint=meant)
