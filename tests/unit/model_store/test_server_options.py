"""Options of llama-server as the memory plan reads them."""

from __future__ import annotations

import pytest

from nexus_tasks.core.errors import UsageError
from nexus_tasks.model_store import server_options
from nexus_tasks.model_store.server_options import ServerOptions, parse_options


def parsed(line: str) -> ServerOptions:
    return parse_options(line.split())[0]


PAIRS = {
    "-c 4096": "--ctx-size 4096",
    "-np 2": "--parallel 2",
    "-np 2 -kvu": "--parallel 2 --kv-unified",
    "-ctk q8_0 -ctv q4_0 -fa on": "--cache-type-k q8_0 --cache-type-v q4_0 --flash-attn on",
    "-ub 64 -b 128": "--ubatch-size 64 --batch-size 128",
    "-ngl 12": "--n-gpu-layers 12",
    "-ncmoe 2": "--n-cpu-moe 2",
    "-cmoe": "--cpu-moe",
    "-ot x=CPU,y=CUDA0": "--override-tensor x=CPU --override-tensor y=CUDA0",
    "-ts 3,1 -sm none -mg 1": "--tensor-split 3,1 --split-mode none --main-gpu 1",
    "-nkvo": "--no-kv-offload",
    "-md d.gguf -ngld 3": "--model-draft d.gguf --gpu-layers-draft 3",
    "-cram 100 -ctxcp 3": "--cache-ram 100 --ctx-checkpoints 3",
    "--no-mmap --mlock": "--load-mode mlock",
    "-c 4096 -fa off": "--ctx_size 4096 --flash-attn 0",
    "-fit 0 -fa 1": "--fit off -fa on",
    "--spec-default": "--spec-ngram-mod-n-max 9 --spec-default",
    "--spec-type ngram-mod,draft-mtp": "--spec-type ngram-mod --spec-type draft-mtp",
    "-md d.gguf -devd CUDA1 -mmdev none": "-md d.gguf --spec-draft-device CUDA1 --mmproj-device none",
}


@pytest.mark.parametrize("short", PAIRS)
def test_short_and_long_forms_say_the_same(short: str) -> None:
    assert parsed(short) == parsed(PAIRS[short]) != ServerOptions()


def test_all_layers_have_three_names() -> None:
    assert parsed("-ngl all") == parsed("--gpu-layers -1") == parsed("-ngl auto") == ServerOptions()


def test_without_options_there_are_four_slots_that_share_their_cache() -> None:
    assert (parsed("").parallel, parsed("").kv_unified) == (4, True)
    assert (parsed("-np -1").parallel, parsed("-np -1").kv_unified) == (4, True)
    assert (parsed("-np 4").parallel, parsed("-np 4").kv_unified) == (4, False)


def test_options_that_change_no_buffer_are_handed_back() -> None:
    options, others = parse_options(["-c", "512", "--temp", "0.7", "--jinja", "-t", "8"])
    assert others == ["--temp", "--jinja", "-t"]
    assert options.ctx_size == 512


def test_experts_go_to_the_host_in_the_order_of_the_options() -> None:
    patterns = parsed("-ot blk.1.=CUDA0 --n-cpu-moe 2 --cpu-moe").tensor_overrides
    assert [buffer for _, buffer in patterns] == ["CUDA0", "CPU", "CPU", "CPU"]
    assert patterns[1][0] == rf"blk\.0{server_options.EXPERTS}"


def test_a_draft_model_has_options_of_its_own() -> None:
    draft = parsed("-ngl 10 -ctk q8_0 -fa on -md d.gguf -ngld 5 -ctkd q4_0 --n-cpu-moe-draft 1 -c 1024").of_draft()
    assert (draft.n_gpu_layers, draft.cache_type_k, draft.ctx_size) == (5, "q4_0", 1024)
    assert len(draft.tensor_overrides) == 1


def test_drafted_tokens_have_outputs_and_snapshots() -> None:
    assert (parsed("").outputs_per_sequence, parsed("").snapshots) == (1, 0)
    mtp = parsed("--spec-type draft-mtp --spec-draft-n-max 5")
    assert (mtp.outputs_per_sequence, mtp.snapshots, mtp.loads_mtp) == (6, 5, True)
    assert parsed("-md d.gguf").outputs_per_sequence == 1  # without --spec-type nothing is drafted by it
    assert parsed("-md d.gguf --spec-type draft-simple").outputs_per_sequence == 4
    assert parsed("--spec-default").outputs_per_sequence == 65
    assert parsed("--spec-type ngram-simple,ngram-mod --spec-ngram-mod-n-max 100").outputs_per_sequence == 101
    assert parsed("--spec-type ngram-map-k --spec-ngram-map-k-size-m 12").outputs_per_sequence == 13
    assert parsed("--spec-ngram-mod-n-max 100").outputs_per_sequence == 1


REFUSED = {
    "-c many": "-c many is no whole number",
    "-c -5": "-c -5 is negative",
    "-ub": "-ub has 0 values",
    "-ctk q3_K": "-ctk q3_K is no choice",
    "-fa maybe": "-fa maybe is no choice",
    "-ts 1,x": "-ts 1,x is no list of shares",
    "-ot exps": "-ot exps names no buffer type",
    "-np 1000": "no such slots",
    "-c 99999999999": "no such slots",
    "--rpc host:1": "doesn't cover --rpc",
    "--lora a.gguf": "doesn't cover --lora",
    "-c=4096": "no option -c=4096",
    "--ctx-size=4096": "no option --ctx-size=4096",
    "-np 0": "-np 0 is refused",
    "--draft-max 16": "--draft-max was removed",
    "-lm mmap_mlock": "-lm mmap_mlock is no choice",
    "--spec-ngram-mod-n-max 1025": "above 1024",
    "-np 4 -b 3": "aborts with 4 slots and batches of 3",
    "-np 4 --embedding -ub 3": "aborts with 4 slots and batches of 3",
    "--embedding -ub 0": "no embeddings with --ubatch-size 0",
    "-mmdev CUDA0,CUDA1": "names several devices",
    "--gpt-oss-20b-default": "doesn't cover --gpt-oss-20b-default",
    "--spec-draft-hf some/model": "doesn't cover --spec-draft-hf",
    "--mmproj-url http://host/p.gguf": "doesn't cover --mmproj-url",
    "stray -c 5": "stray belongs to no option",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_llama_server_refuses_or_the_rules_do_not_cover_is_told(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parsed(line)
    assert REFUSED[line] in caught.value.message
    assert caught.value.hint
