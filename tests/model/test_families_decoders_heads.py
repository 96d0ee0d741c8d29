"""Text decoders with ordinary attention: windows and KV heads by layer."""

from __future__ import annotations

from typing import Any

import pytest
from decoder_configs import SMALL, gpt_keys, kinds, kv_heads, llama_keys, read, windows

from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError
from hfmem.model.layers import FullAttention, SlidingAttention


@pytest.mark.parametrize(
    ("model_type", "keys", "expected", "window"),
    [
        ("gemma2", {}, "sfsfsf", 4096),
        ("gemma3_text", {}, "sssssf", 4096),
        ("gemma3_text", {"sliding_window_pattern": 2, "sliding_window": 512}, "sfsfsf", 512),
        ("gemma3_text", {"use_bidirectional_attention": True}, "------", None),
        ("cohere2", {}, "sssfss", 4096),
        ("cohere2", {"sliding_window_pattern": 3}, "ssfssf", 4096),
        ("olmo3", {}, "sssfss", 4096),
        ("gpt_oss", {"num_local_experts": 4}, "sfsfsf", 128),
        ("granitemoe_swa", {}, "fsssfs", 128),
        ("exaone4", {"sliding_window_pattern": "LLG"}, "ssfssf", 4096),
        ("exaone4", {"sliding_window": None}, "ffffff", None),
        ("smollm3", {"sliding_window": 8}, "ffffff", None),
        ("smollm3", {"use_sliding_window": True, "sliding_window": 8}, "fffsff", 8),
        ("cwm", {}, "fsssfs", 8192),
        ("afmoe", {"num_experts": 4, "num_experts_per_tok": 2}, "sssfss", 1024),
        ("phi3", {"sliding_window": 2047}, "ssssss", 2047),
        ("phi3", {}, "ffffff", None),
        ("mixtral", {}, "ffffff", None),
        ("qwen3_moe", {"sliding_window": 4096}, "ffffff", None),
        ("qwen3_moe", {"sliding_window": 4096, "use_sliding_window": True}, "ssssss", 4096),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 3}, "sfsfff", 4096),
        ("modernbert-decoder", {"num_key_value_heads": 4}, "fssfss", 64),
        ("ministral", {"layer_types": ["full_attention"] * 5 + ["sliding_attention"]}, "fffffs", 4096),
    ],
)
def test_windows(model_type: str, keys: dict[str, Any], expected: str, window: int | None) -> None:
    arch = read(model_type, **{**SMALL, **keys})
    assert kinds(arch) == expected
    assert windows(arch) == ({window} if window else set())


def test_smollm3_slides_where_there_is_no_rotary_embedding() -> None:
    keys = {**SMALL, "use_sliding_window": True, "sliding_window": 8, "no_rope_layers": [1, 0, 1, 1, 0, 1]}
    assert kinds(read("smollm3", **keys)) == "fsffsf"


def test_gpt_neo_writes_its_layers_as_counts() -> None:
    """EleutherAI/gpt-neo-1.3B: `[[["global", "local"], 12]]` is 24 layers, every second one local."""
    arch = read(
        "gpt_neo",
        hidden_size=2048,
        num_heads=16,
        num_layers=24,
        vocab_size=50257,
        attention_types=[[["global", "local"], 12]],
    )
    assert kinds(arch) == "fs" * 12
    assert windows(arch) == {256}
    assert arch.expected_parameters() == 1_315_575_808  # reference data, measured with transformers
    with pytest.raises(ContradictionError, match=r"'attention_types' describes 6 layers of 24"):
        read("gpt_neo", num_layers=24, attention_types=[[["global", "local"], 3]])
    with pytest.raises(UnknownArchitectureError, match=r"attention_types.*'banded'"):
        read("gpt_neo", num_layers=2, attention_types=[[["global", "banded"], 1]])


def test_an_unknown_layer_type_is_refused_by_name() -> None:
    with pytest.raises(UnknownArchitectureError, match=r"'layer_types' is 'linear_attention'"):
        read("olmo3", **SMALL, layer_types=["full_attention"] * 5 + ["linear_attention"])
    with pytest.raises(ContradictionError, match=r"'layer_types' has 1 entries"):
        read("olmo3", **SMALL, layer_types=["full_attention"])


def test_a_window_beyond_the_positions_is_said() -> None:
    """Phi-4-mini names a window of 262,144 over 131,072 positions."""
    arch = read(
        "phi4", **llama_keys(3072, 32, 24, 8, 8192, 200064), sliding_window=262144, max_position_embeddings=131072
    )
    assert windows(arch) == {262144}
    assert [note.code for note in arch.notes] == ["open_window"]
    assert arch.model_type == "phi4"


FALCON = {"num_hidden_layers": 2, "vocab_size": 65024}


@pytest.mark.parametrize(
    ("model_type", "keys", "kv", "norms"),
    [
        # tiiuae/falcon-7b, in both spellings
        (
            "falcon",
            {"hidden_size": 4544, "num_attention_heads": 71, "num_kv_heads": 71, "multi_query": True},
            1,
            {"input_layernorm"},
        ),
        (
            "RefinedWebModel",
            {"hidden_size": 4544, "n_head": 71, "n_layer": 2, "multi_query": True},
            1,
            {"input_layernorm"},
        ),
        # tiiuae/falcon-40b, in both spellings: the new decoder ignores multi_query
        (
            "falcon",
            {
                "hidden_size": 8192,
                "num_attention_heads": 128,
                "num_kv_heads": 8,
                "multi_query": True,
                "new_decoder_architecture": True,
            },
            8,
            {"ln_attn", "ln_mlp"},
        ),
        ("RefinedWeb", {"hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 2}, 8, {"ln_attn", "ln_mlp"}),
        # tiiuae/falcon-11B: the new decoder with one norm
        (
            "falcon",
            {
                "hidden_size": 4096,
                "num_attention_heads": 32,
                "num_kv_heads": 8,
                "new_decoder_architecture": True,
                "num_ln_in_parallel_attn": 1,
            },
            8,
            {"input_layernorm"},
        ),
        # tiiuae/falcon-rw-1b
        (
            "falcon",
            {
                "hidden_size": 2048,
                "num_attention_heads": 32,
                "multi_query": False,
                "parallel_attn": False,
                "bias": True,
                "alibi": True,
            },
            32,
            {"input_layernorm", "post_attention_layernorm"},
        ),
    ],
)
def test_falcon(model_type: str, keys: dict[str, Any], kv: int, norms: set[str]) -> None:
    arch = read(model_type, **{**FALCON, **keys})
    assert kv_heads(arch) == {kv}
    assert arch.family == "falcon"
    found = {s.pattern.split(".")[3] for s in arch.tensors if s.component == "norm" and "{}" in s.pattern}
    assert found == norms
    hidden, heads = arch.hidden_size, arch.num_attention_heads
    assert heads is not None
    rows = next(s.shape[0] for s in arch.tensors if s.pattern.endswith("query_key_value.weight"))
    assert rows == hidden + 2 * kv * (hidden // heads)


@pytest.mark.parametrize(
    ("attn", "kv"),
    [
        ({"attn_type": "multiquery_attention"}, 1),
        ({"attn_type": "grouped_query_attention", "kv_n_heads": 4}, 4),
        ({"attn_type": "multihead_attention"}, 8),
        ({}, 8),
    ],
)
def test_mpt_kv_heads(attn: dict[str, Any], kv: int) -> None:
    arch = read("mpt", d_model=64, n_heads=8, n_layers=2, vocab_size=100, attn_config=attn)
    assert kv_heads(arch) == {kv}
    with pytest.raises(UnknownArchitectureError, match="attn_type"):
        read("mpt", d_model=64, n_heads=8, n_layers=2, vocab_size=100, attn_config={"attn_type": "latent"})


def test_gpt_bigcode_multi_query_is_one_kv_head() -> None:
    assert kv_heads(read("gpt_bigcode", **gpt_keys(64, 2, 4, 100))) == {1}
    assert kv_heads(read("gpt_bigcode", **gpt_keys(64, 2, 4, 100), multi_query=False)) == {4}


def test_dbrx_nests_its_heads_and_experts() -> None:
    """databricks/dbrx-base: 131,596,523,520 parameters by the Hub; 16 experts, 4 used; 8 KV heads."""
    arch = read(
        "dbrx",
        d_model=6144,
        n_heads=48,
        n_layers=40,
        vocab_size=100352,
        attn_config={"kv_n_heads": 8, "clip_qkv": 8},
        ffn_config={"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    )
    assert arch.expected_parameters() == 131_596_523_520
    assert kv_heads(arch) == {8}
    with pytest.raises(MissingKeyError, match=r"config\.json: attn_config: 'kv_n_heads'"):
        read("dbrx", d_model=64, n_heads=4, n_layers=1, vocab_size=100, attn_config={}, ffn_config={})


def test_chatglm_shares_kv_heads_and_old_chatglm_does_not() -> None:
    """THUDM/chatglm2-6b: 6,243,584,000 parameters, 2 KV heads of 128; THUDM/chatglm-6b: 6,173,286,400 with its head tied."""
    new = read(
        "chatglm",
        hidden_size=4096,
        num_layers=28,
        num_attention_heads=32,
        kv_channels=128,
        multi_query_attention=True,
        multi_query_group_num=2,
        ffn_hidden_size=13696,
        padded_vocab_size=65024,
        add_bias_linear=False,
        add_qkv_bias=True,
        rmsnorm=True,
        tie_word_embeddings=False,
    )
    assert (new.expected_parameters(), kv_heads(new), new.head_dim) == (6_243_584_000, {2}, 128)
    old = read(
        "chatglm",
        hidden_size=4096,
        num_layers=28,
        num_attention_heads=32,
        inner_hidden_size=16384,
        vocab_size=130528,
        position_encoding_2d=True,
    )
    assert (old.expected_parameters(), kv_heads(old)) == (6_173_286_400, {32})
    with pytest.raises(MissingKeyError, match="'kv_channels'"):
        read("chatglm", hidden_size=64, num_layers=1, num_attention_heads=4, ffn_hidden_size=64, padded_vocab_size=10)


def test_deci_lists_kv_heads_by_layer() -> None:
    arch = read("deci", **llama_keys(64, 3, 8, 8, 128, 100), num_key_value_heads_per_layer=[4, 2, 1])
    assert [c.num_kv_heads for c in arch.caches() if isinstance(c, FullAttention)] == [4, 2, 1]
    # Deci/DeciLM-7B: 7,043,551,232 parameters by the Hub, 67 KV heads over 32 layers
    seven = read(
        "deci",
        **llama_keys(4096, 32, 32, 32, 14336, 32000),
        num_key_value_heads_per_layer=[4] * 10 + [2] * 5 + [1] * 17,
    )
    assert seven.expected_parameters() == 7_043_551_232
    with pytest.raises(ContradictionError, match="num_key_value_heads_per_layer"):
        read("deci", **llama_keys(64, 3, 8, 8, 128, 100), num_key_value_heads_per_layer=[4, 2])


def test_laguna_has_heads_by_layer() -> None:
    keys = {
        **llama_keys(64, 2, 4, 2, 128, 100, head_dim=16, num_experts=4, num_experts_per_tok=2),
        "num_attention_heads_per_layer": [4, 8],
        "layer_types": ["full_attention", "sliding_attention"],
    }
    arch = read("laguna", **keys)
    assert [c.num_heads for c in arch.caches() if isinstance(c, FullAttention | SlidingAttention)] == [4, 8]
    gates = sorted(s.shape for s in arch.tensors if s.pattern.endswith("g_proj.weight"))
    assert gates == [(4, 64), (8, 64)]
    with pytest.raises(UnknownArchitectureError, match="gating"):
        read("laguna", **keys, gating="sometimes")


def test_heads_by_published_class() -> None:
    """A classifier has `score` instead of the output projection; a bare model neither, and its tensors lose the root's name."""
    keys = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    scored = read(
        "gpt_neox", **keys, architectures=["GPTNeoXForSequenceClassification"], id2label={"0": "a", "1": "b", "2": "c"}
    )
    assert [s.shape for s in scored.tensors if s.pattern == "score.weight"] == [(3, 64)]
    assert not [s for s in scored.tensors if s.component == "lm_head"]
    bare = read("gemma", **keys, num_key_value_heads=4, architectures=["GemmaModel"])
    assert "layers.{}.self_attn.q_proj.weight" in {s.pattern for s in bare.tensors}
    assert not [s for s in bare.tensors if s.component == "lm_head"]
