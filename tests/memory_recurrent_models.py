"""Models with recurrent layers for plans of memory, of eight layers or so."""

from __future__ import annotations

from tests.memory_models import Model, Tensors, attention, experts, layers, network, numbers, outside, routed


def delta_net(architecture: str, width: int, words: int, *, joined: bool, count: int, tied: bool = False) -> Model:
    """Qwen3-Next and Qwen3.5: every fourth layer has attention; without experts where ``count`` is 0."""
    heads, kv, inner, groups, size = (16, 2 if count else 4, 4096, 16, 128)

    def recurrent(b: str) -> Tensors:
        channels = 2 * groups * size + inner
        sizes = {
            "attn_norm": (width,),
            "attn_qkv": (width, channels),
            "attn_gate": (width, inner),
            "ssm_conv1d": (4, channels),
        }
        sizes |= {"ssm_norm": (size,), "ssm_out": (inner, width)}
        sizes |= {"ssm_ba": (width, 64)} if joined else {"ssm_beta": (width, 32), "ssm_alpha": (width, 32)}
        return [
            *((f"{b}{name}.weight", shape) for name, shape in sizes.items()),
            (f"{b}ssm_dt.bias", (32,)),
            (f"{b}ssm_a", (32,)),
        ]

    def attending(b: str) -> Tensors:
        sizes = {
            "attn_norm": (width,),
            "attn_q": (width, heads * 512),
            "attn_k": (width, kv * 256),
            "attn_v": (width, kv * 256),
        }
        sizes |= {"attn_output": (heads * 256, width), "attn_q_norm": (256,), "attn_k_norm": (256,)}
        return [(f"{b}{name}.weight", shape) for name, shape in sizes.items()]

    def layer(number: int, b: str) -> Tensors:
        norm = "post_attention_norm"
        rest = (
            experts(b, width, 512, count, norm, shared=512, shared_gate=True)
            if count
            else network(b, width, 9216, norm)
        )
        return (attending(b) if number % 4 == 3 else recurrent(b)) + rest

    states = {"conv_kernel": 4, "inner_size": inner, "state_size": size, "time_step_rank": 32, "group_count": groups}
    more: dict[str, object] = {f"ssm__{key}": value for key, value in states.items()}
    more |= routed(count, 8, 512, expert_shared_feed_forward_length=512) if count else {}
    if architecture != "qwen3next":
        more["rope__dimension_sections"] = [11, 11, 10, 0]
    values = numbers(width, 8, 9216, heads, kv, 256, rope__dimension_count=64, full_attention_interval=4, **more)
    return Model(architecture, values, outside(width, words, tied=tied) + layers(8, layer))


def lfm2(architecture: str, *, count: int) -> Model:
    """LFM2: short convolutions, and attention in two layers."""
    heads_kv = [0, 0, 8, 0, 0, 8, 0, 0]

    def layer(number: int, b: str) -> Tensors:
        rows = attention(b, 2048, 32, 8, 64, norms="heads")
        if not heads_kv[number]:
            sizes = {
                "attn_norm": (2048,),
                "shortconv.conv": (3, 2048),
                "shortconv.in_proj": (2048, 6144),
                "shortconv.out_proj": (2048, 2048),
            }
            rows = [(f"{b}{name}.weight", shape) for name, shape in sizes.items()]
        return rows + (experts(b, 2048, 1792, count, bias=True) if count and number >= 2 else network(b, 2048, 7168))

    more = routed(count, 4, 1792, leading_dense_block_count=2, expert_gating_func=2) if count else {}
    values = numbers(2048, 8, 7168, 32, 8, 64, shortconv__l_cache=3, attention__head_count_kv=heads_kv, **more)
    head: Tensors = [("token_embd.weight", (2048, 65536)), ("token_embd_norm.weight", (2048,))]
    return Model(architecture, values, head + layers(8, layer))


def state_space(b: str, width: int, inner: int, groups: int, heads: int, size: int = 128) -> Tensors:
    """A layer of Mamba 2."""
    channels = inner + 2 * groups * size
    sizes = {"attn_norm": (width,), "ssm_in": (width, inner + channels + heads), "ssm_conv1d": (4, channels)}
    sizes |= {"ssm_norm": (inner // groups, groups), "ssm_out": (inner, width)}
    rest: Tensors = [(f"{b}ssm_conv1d.bias", (channels,)), (f"{b}ssm_dt.bias", (heads,))]
    return [
        *((f"{b}{name}.weight", shape) for name, shape in sizes.items()),
        *rest,
        (f"{b}ssm_a", (1, heads)),
        (f"{b}ssm_d", (1, heads)),
    ]


def states(inner: int, heads: int, groups: int) -> dict[str, int]:
    """Metadata of state spaces."""
    return {
        "ssm__conv_kernel": 4, "ssm__inner_size": inner, "ssm__state_size": 128, "ssm__time_step_rank": heads,
        "ssm__group_count": groups,
    }  # fmt: skip


def granite_hybrid() -> Model:
    """Granite 4: Mamba 2 with attention in two layers, and experts in all."""
    heads_kv = [0, 0, 0, 4, 0, 0, 0, 4]
    rows = layers(
        8,
        lambda at, b: (
            (attention(b, 1536, 12, 4, 128) if heads_kv[at] else state_space(b, 1536, 3072, 1, 48))
            + experts(b, 1536, 512, 64, shared=1024)
        ),
    )
    scales = {"logit_scale": 6.0, "residual_scale": 0.22, "embedding_scale": 12.0, "attention__scale": 0.0078}
    more = {**scales, **states(3072, 48, 1), **routed(64, 6, 512), "expert_shared_feed_forward_length": 1024}
    values = numbers(1536, 8, 512, 12, 4, 128, attention__head_count_kv=heads_kv, **more)
    return Model("granitehybrid", values, outside(1536, 100352, tied=True) + rows)


def nemotron(architecture: str, width: int, inner: int, count: int) -> Model:
    """Nemotron-H: each layer is one of Mamba 2 (m), attention (a) and a network (f)."""
    kinds, heads, kv = "mfmfmafmf", 40 if not count else 32, 8 if not count else 2
    spaces = 10240 if not count else 4096

    def layer(at: int, b: str) -> Tensors:
        if kinds[at] == "m":
            return state_space(b, width, spaces, 8, spaces // 80 if not count else 64)
        if kinds[at] == "a":
            return attention(b, width, heads, kv, 128)
        if not count:
            return network(b, width, inner, "attn_norm", gate=False)
        return experts(b, width, inner, count, "attn_norm", shared=2 * inner, bias=True, gate=False)

    more = {**states(spaces, spaces // 80 if not count else 64, 8), "attention__layer_norm_epsilon": 1e-5}
    if count:
        more |= routed(
            count,
            6,
            inner,
            expert_shared_feed_forward_length=2 * inner,
            expert_shared_count=1,
            expert_weights_norm=True,
            expert_weights_scale=2.5,
        )
    by_layer = {
        "attention__head_count_kv": [kv if kind == "a" else 0 for kind in kinds],
        "feed_forward_length": [inner if kind == "f" else 0 for kind in kinds],
    }
    values = {
        **numbers(
            width, 9, inner, heads, kv, 128, **more, attention__head_count_kv=by_layer["attention__head_count_kv"]
        )
    }
    values["feed_forward_length"] = by_layer["feed_forward_length"]
    return Model(architecture, values, outside(width, 131072) + layers(9, layer))


def mamba2() -> Model:
    """Mamba 2."""
    values = {"context_length": 1048576, "embedding_length": 2560, "block_count": 6, "feed_forward_length": 0}
    more = {key.replace("__", "."): value for key, value in states(5120, 80, 1).items()}
    values |= {"attention.head_count": 0, **more}
    rows = layers(6, lambda _, b: state_space(b, 2560, 5120, 1, 80))
    return Model("mamba2", {**values, "attention.layer_norm_rms_epsilon": 1e-5}, outside(2560, 50288, tied=True) + rows)


RECURRENT = {
    "qwen3next": delta_net("qwen3next", 2048, 151936, joined=True, count=128),
    "qwen35": delta_net("qwen35", 2560, 248320, joined=False, count=0, tied=True),
    "qwen35moe": delta_net("qwen35moe", 2048, 248320, joined=False, count=256),
    "lfm2": lfm2("lfm2", count=0),
    "lfm2moe": lfm2("lfm2moe", count=32),
    "granitehybrid": granite_hybrid(),
    "nemotron_h": nemotron("nemotron_h", 4480, 15680, 0),
    "nemotron_h_moe": nemotron("nemotron_h_moe", 2688, 1856, 128),
    "mamba2": mamba2(),
}
