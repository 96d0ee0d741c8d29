"""Text decoders with ordinary attention: what each family's rule derives from the memory-relevant keys of a published config.

Expected parameters are the counts that the Hub shows for the published safetensors (or the model's paper), or the reference data's
measurement with transformers; none is this package's output. Windows and heads are the models' published facts.
"""

from __future__ import annotations

from typing import Any

import pytest

from hfmem.errors import ContradictionError, HfmemError, MissingKeyError, UnknownArchitectureError
from hfmem.model.architecture import Architecture
from hfmem.model.config import Config
from hfmem.model.draft import Draft
from hfmem.model.families.nas import ffn_width
from hfmem.model.families.registry import read_architecture
from hfmem.model.layers import FullAttention, NoCache, SharedCache, ShortConvState, SlidingAttention


def read(model_type: str, **keys: Any) -> Architecture:
    return read_architecture({"model_type": model_type, **keys})


def llama_keys(hidden: int, layers: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any) -> dict[str, Any]:
    """The six sizes under the names most configs use."""
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        **more,
    }


def gpt_keys(embd: int, layers: int, heads: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {"n_embd": embd, "n_layer": layers, "n_head": heads, "vocab_size": vocab, **more}


#: name, model_type, keys, parameters as published (Hub's safetensors count or paper)
PUBLISHED: list[tuple[str, str, dict[str, Any], int]] = [
    (
        "bigscience/bloom-560m",
        "bloom",
        {"n_embed": 1024, "n_layer": 24, "num_attention_heads": 16, "vocab_size": 250880},
        559_214_592,
    ),
    (
        "bigscience/bloom",  # 176,247,271,424 in the model card
        "bloom",
        {"n_embed": 14336, "n_layer": 70, "num_attention_heads": 112, "vocab_size": 250880},
        176_247_271_424,
    ),
    ("internlm/internlm2-7b", "internlm2", llama_keys(4096, 32, 32, 8, 14336, 92544, bias=False), 7_737_708_544),
    ("internlm/internlm2-20b", "internlm2", llama_keys(6144, 48, 48, 8, 16384, 92544, bias=False), 19_861_149_696),
    (
        "internlm/internlm3-8b-instruct",
        "internlm3",
        llama_keys(4096, 48, 32, 2, 10240, 128512, head_dim=128, bias=False, qkv_bias=False),
        8_804_241_408,
    ),
    # tied because nothing says otherwise: 2,442,057,984 in the paper's table plus the embedding of 122,753 · 2304
    ("openbmb/MiniCPM-2B", "minicpm", llama_keys(2304, 40, 36, 36, 5760, 122753), 2_442_057_984 + 122_753 * 2304),
    ("allenai/OLMo-7B-hf", "olmo", llama_keys(4096, 32, 32, 32, 11008, 50304), 6_888_095_744),
    ("allenai/OLMo-2-1124-7B", "olmo2", llama_keys(4096, 32, 32, 32, 11008, 100352), 7_298_617_344),
    (
        "allenai/OLMoE-1B-7B-0924",
        "olmoe",
        llama_keys(2048, 16, 16, 16, 1024, 50304, num_experts=64, num_experts_per_tok=8),
        6_919_161_856,
    ),
    ("bigcode/starcoder2-3b", "starcoder2", llama_keys(3072, 30, 24, 2, 12288, 49152, use_bias=True), 3_030_371_328),
    (
        "bigcode/starcoder",
        "gpt_bigcode",
        gpt_keys(6144, 40, 48, 49152, n_inner=24576, n_positions=8192, multi_query=True),
        15_517_456_384,
    ),
    (
        "microsoft/Phi-3-small-8k-instruct",
        "phi3small",
        {k: v for k, v in llama_keys(4096, 32, 32, 8, 0, 100352, ff_intermediate_size=14336).items() if v},
        7_392_272_384,
    ),
    (
        "LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct",
        "exaone",
        {
            "hidden_size": 4096,
            "num_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "intermediate_size": 14336,
            "vocab_size": 102400,
            "tie_word_embeddings": False,
        },
        7_818_448_896,
    ),
    (
        "stabilityai/stablelm-2-1_6b",
        "stablelm",
        llama_keys(2048, 24, 32, 32, 5632, 100352, use_qkv_bias=True),
        1_644_515_328,
    ),
    ("google/gemma-2-9b", "gemma2", llama_keys(3584, 42, 16, 8, 14336, 256000, head_dim=256), 9_241_705_984),
    (
        "Qwen/Qwen1.5-MoE-A2.7B",
        "qwen2_moe",
        llama_keys(
            2048,
            24,
            16,
            16,
            5632,
            151936,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
            num_experts=60,
            num_experts_per_tok=4,
        ),
        14_315_784_192,
    ),
    ("CohereForAI/c4ai-command-r-v01", "cohere", llama_keys(8192, 40, 64, 64, 22528, 256000), 34_980_831_232),
    ("baichuan-inc/Baichuan-7B", "baichuan", llama_keys(4096, 32, 32, 32, 11008, 64000), 7_000_559_616),
    ("baichuan-inc/Baichuan2-13B-Base", "baichuan", llama_keys(5120, 40, 40, 40, 13696, 125696), 13_896_668_160),
    (
        "Qwen/Qwen-14B",
        "qwen",
        llama_keys(5120, 40, 40, 40, 27392, 152064, kv_channels=128, no_bias=True),
        14_167_290_880,
    ),
    (
        "Qwen/Qwen-72B",
        "qwen",
        llama_keys(8192, 80, 64, 64, 49152, 152064, kv_channels=128, no_bias=True),
        72_287_920_128,
    ),
    (
        "facebook/xglm-564M",
        "xglm",
        {"d_model": 1024, "num_layers": 24, "attention_heads": 16, "ffn_dim": 4096, "vocab_size": 256008},
        564_463_616,
    ),
    ("openai-community/gpt2-xl", "gpt2", gpt_keys(1600, 48, 25, 50257, n_positions=1024), 1_557_611_200),
    (
        "EleutherAI/pythia-12b",
        "gpt_neox",
        {
            "hidden_size": 5120,
            "num_hidden_layers": 36,
            "num_attention_heads": 40,
            "intermediate_size": 20480,
            "vocab_size": 50688,
        },
        11_846_072_320,
    ),
    ("Salesforce/codegen-350M-mono", "codegen", gpt_keys(1024, 20, 16, 51200), 356_712_448),
    (
        "ibm-granite/granite-3.1-8b-base",
        "granite",
        llama_keys(4096, 40, 32, 8, 12800, 49155, tie_word_embeddings=True),
        8_170_848_256,
    ),
    (
        "tencent/Hunyuan-A13B-Instruct",  # counts written once a layer
        "hunyuan_v1_moe",
        llama_keys(
            4096, 32, 32, 8, 3072, 128167, head_dim=128, num_experts=64, moe_topk=[8] * 32, tie_word_embeddings=True
        ),
        80_393_183_232,
    ),
    (
        "openai/gpt-oss-120b",  # 116,829,156,672: 116.83B total in the model card's table
        "gpt_oss",
        llama_keys(2880, 36, 64, 8, 2880, 201088, head_dim=64, num_local_experts=128, num_experts_per_tok=4),
        116_829_156_672,
    ),
    (
        "microsoft/Phi-3.5-MoE-instruct",
        "phimoe",
        llama_keys(
            4096,
            32,
            32,
            8,
            6400,
            32064,
            num_local_experts=16,
            num_experts_per_tok=2,
            attention_bias=True,
            lm_head_bias=True,
        ),
        41_873_153_344,
    ),
    (
        "baidu/ERNIE-4.5-0.3B-PT",
        "ernie4_5",
        llama_keys(1024, 18, 16, 2, 3072, 103424, head_dim=128, tie_word_embeddings=True),
        360_748_032,
    ),
    (
        "baidu/ERNIE-4.5-21B-A3B-PT",
        "ernie4_5_moe",
        llama_keys(
            2560,
            28,
            20,
            4,
            12288,
            103424,
            moe_intermediate_size=1536,
            moe_num_experts=64,
            moe_k=6,
            moe_num_shared_experts=2,
            moe_layer_start_index=1,
            tie_word_embeddings=True,
        ),
        21_825_437_888,
    ),
    ("swiss-ai/Apertus-8B-2509", "apertus", llama_keys(4096, 32, 32, 8, 21504, 131072), 8_053_338_176),
    (
        "zai-org/GLM-4-9B-0414",
        "glm4",
        llama_keys(4096, 40, 32, 2, 13696, 151552, head_dim=128),
        9_400_279_040,
    ),
    ("kyutai/helium-1-preview-2b", "helium", llama_keys(2560, 24, 20, 20, 7040, 48000), 2_172_643_840),
    ("jetmoe/jetmoe-8b", "jetmoe", {"num_hidden_layers": 24}, 8_522_237_952),
    (
        "deepseek-ai/deepseek-moe-16b-base",
        "deepseek",
        llama_keys(
            2048,
            28,
            16,
            16,
            10944,
            102400,
            moe_intermediate_size=1408,
            n_routed_experts=64,
            n_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=1,
            moe_layer_freq=1,
        ),
        16_375_728_128,
    ),
    (
        "inclusionAI/Ling-lite",
        "bailing_moe",
        llama_keys(
            2048,
            28,
            16,
            4,
            5632,
            126464,
            head_dim=128,
            moe_intermediate_size=1408,
            num_experts=64,
            num_shared_experts=2,
            num_experts_per_tok=6,
            first_k_dense_replace=0,
        ),
        16_801_974_272,
    ),
    (
        "apple/OpenELM-270M",
        "openelm",
        {
            "model_dim": 1280,
            "num_transformer_layers": 16,
            "head_dim": 64,
            "num_query_heads": [12] * 5 + [16] * 7 + [20] * 4,
            "num_kv_heads": [3] * 5 + [4] * 7 + [5] * 4,
            "ffn_multipliers": [
                0.5,
                0.73,
                0.97,
                1.2,
                1.43,
                1.67,
                1.9,
                2.13,
                2.37,
                2.6,
                2.83,
                3.07,
                3.3,
                3.53,
                3.77,
                4.0,
            ],
            "ffn_dim_divisor": 256,
            "normalize_qk_projections": True,
            "vocab_size": 32000,
        },
        271_527_168,
    ),
    (
        "allenai/OLMo-7B",  # the same model as OLMo-7B-hf
        "hf_olmo",
        {
            "d_model": 4096,
            "n_layers": 32,
            "n_heads": 32,
            "mlp_hidden_size": 22016,
            "vocab_size": 50280,
            "embedding_size": 50304,
            "weight_tying": False,
            "layer_norm_with_affine": False,
        },
        6_888_095_744,
    ),
]


@pytest.mark.parametrize(("name", "model_type", "keys", "parameters"), PUBLISHED, ids=[p[0] for p in PUBLISHED])
def test_published_parameters(name: str, model_type: str, keys: dict[str, Any], parameters: int) -> None:
    assert read(model_type, **keys).expected_parameters() == parameters


def test_dots_counts_its_correction_bias_as_a_buffer() -> None:
    """rednote-hilab/dots.llm1: the Hub counts 142,774,381,696 elements, 61 · 128 of them a buffer that only steers routing."""
    arch = read(
        "dots1",
        **llama_keys(4096, 62, 32, 32, 10944, 152064, head_dim=128, moe_intermediate_size=1408, sliding_window=None),
        n_routed_experts=128,
        n_shared_experts=2,
        num_experts_per_tok=6,
        first_k_dense_replace=1,
    )
    assert arch.expected_parameters() == 142_774_381_696 - 61 * 128
    buffers = [s for s in arch.tensors if s.buffer]
    assert [(s.pattern, s.count, s.shape) for s in buffers] == [
        ("model.layers.{}.mlp.gate.e_score_correction_bias", 61, (128,))
    ]


def test_active_parameters_count_the_routed_share() -> None:
    """Mixtral-8x7B: 46,702,792,704 parameters, 12,879,925,248 active (reference data; Mistral says 46.7B and 12.9B)."""
    arch = read("mixtral", **llama_keys(4096, 32, 32, 8, 14336, 32000, num_local_experts=8, num_experts_per_tok=2))
    assert (arch.expected_parameters(), arch.active_parameters()) == (46_702_792_704, 12_879_925_248)
    assert (arch.num_experts, arch.num_experts_per_tok) == (8, 2)
    # 6 of 8 experts rest: 32 layers · 6 · 3 matrices · 4096 · 14336
    assert arch.expected_parameters() - arch.active_parameters() == 32 * 6 * 3 * 4096 * 14336


# ---- caches by layer ------------------------------------------------------------------------------------------------------


def kinds(arch: Architecture) -> str:
    """One letter a layer: f full, s sliding, - nothing."""
    letters = {FullAttention: "f", SlidingAttention: "s", NoCache: "-"}
    return "".join(letters[type(cache)] for cache in arch.caches())


def windows(arch: Architecture) -> set[int]:
    return {cache.window for cache in arch.caches() if isinstance(cache, SlidingAttention)}


SMALL = llama_keys(64, 6, 4, 2, 128, 100, head_dim=16)


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


# ---- KV heads ------------------------------------------------------------------------------------------------------------


def kv_heads(arch: Architecture) -> set[int]:
    return {c.num_kv_heads for c in arch.caches() if isinstance(c, FullAttention | SlidingAttention)}


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


def test_qwen1_halves_its_intermediate_size() -> None:
    arch = read("qwen", **llama_keys(64, 1, 4, 4, 256, 100, kv_channels=16))
    shapes = {s.pattern.split(".mlp.")[1]: s.shape for s in arch.tensors if ".mlp." in s.pattern}
    assert shapes == {"w2.weight": (128, 64), "w1.weight": (128, 64), "c_proj.weight": (64, 128)}


# ---- layers that differ ----------------------------------------------------------------------------------------------------


def nas_block(group: int | None, mult: float | None, **attention: Any) -> dict[str, Any]:
    return {
        "attention": {"n_heads_in_group": group, "no_op": group is None and not attention, **attention},
        "ffn": {"ffn_mult": mult, "no_op": mult is None},
    }


def test_nemotron_nas_reads_each_block() -> None:
    """Hidden 8192 and 64 heads as Llama-3.3-Nemotron-Super-49B, whose blocks mix these four forms."""
    arch = read(
        "nemotron-nas",
        hidden_size=8192,
        num_attention_heads=64,
        num_key_value_heads=None,
        num_hidden_layers=4,
        intermediate_size=None,
        vocab_size=128256,
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=False,
        block_configs=[
            nas_block(8, 2.625),
            nas_block(None, 0.5),
            nas_block(None, 1.0, replace_with_linear=True),
            nas_block(16, None),
        ],
    )
    assert kinds(arch) == "f--f"
    assert [c.num_kv_heads for c in arch.caches() if isinstance(c, FullAttention)] == [8, 4]
    hidden, head = 8192, 128
    attention = 2 * hidden * hidden + 2 * 8 * head * hidden
    narrow = 2 * hidden * hidden + 2 * 4 * head * hidden
    # int(2 · 2.625 · 8192 / 3) = 14,336; int(2 · 0.5 · 8192 / 3) = 2,730 → 2,816; int(2 · 8192 / 3) = 5,461 → 5,632
    ffn = 3 * hidden * (14336 + 2816 + 5632)
    norms = hidden * (2 + 1 + 2 + 1 + 1)
    assert arch.expected_parameters() == (2 * 128256 * hidden + attention + narrow + hidden * hidden + ffn + norms)


def test_ffn_width_rounds_up_to_256() -> None:
    assert [ffn_width(mult, 8192) for mult in (5.25, 2.625, 1.0, 0.375)] == [28672, 14336, 5632, 2048]


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


def test_hunyuan_shares_keys_and_values_between_layers() -> None:
    keys = llama_keys(64, 4, 4, 2, 128, 100, num_experts=4, moe_topk=1, use_cla=True, cla_share_factor=2)
    arch = read("hunyuan", **keys)
    assert [type(c).__name__ for c in arch.caches()] == ["FullAttention", "SharedCache"] * 2
    assert [c.source_layer for c in arch.caches() if isinstance(c, SharedCache)] == [0, 2]
    stored = {s.pattern.split(".")[-2]: s.count for s in arch.tensors if "self_attn" in s.pattern}
    assert stored["k_proj"] == stored["v_proj"] == 2
    assert sum(s.count for s in arch.tensors if s.pattern.endswith("q_proj.weight")) == 4


def test_inkling_keeps_four_convolutions_a_layer() -> None:
    """Reference data (class defaults): 55 windowed layers of 16 KV heads, 11 full ones of 8, convolutions over k, v and hidden."""
    arch = read("inkling_text")
    first, sixth = arch.layers[0].caches, arch.layers[5].caches
    assert first[0] == SlidingAttention(64, 16, 128, 128, 512)
    assert sixth[0] == FullAttention(64, 8, 128, 128)
    assert [c.hidden_size for c in first[1:] if isinstance(c, ShortConvState)] == [2048, 2048, 6144, 6144]
    assert [c.hidden_size for c in sixth[1:] if isinstance(c, ShortConvState)] == [1024, 1024, 6144, 6144]
    assert sum(isinstance(layer.caches[0], FullAttention) for layer in arch.layers) == 11


def test_openelm_widths_round_to_the_divisor() -> None:
    """`make_divisible`: 0.73 · 1280 = 934.4 → 1024, as 3.65 times 256 rounds to 4; 100 of 256 is 256, never less."""
    keys = {"model_dim": 1280, "num_transformer_layers": 2, "head_dim": 64, "vocab_size": 100, "ffn_dim_divisor": 256}
    arch = read("openelm", **keys, num_query_heads=[12, 12], num_kv_heads=[3, 3], ffn_multipliers=[0.73, 0.078])
    widths = [s.shape[1] for s in arch.tensors if s.pattern.endswith("proj_2.weight")]
    assert widths == [1024, 256]


def test_a_tower_beside_chatglm_and_qwen_has_no_cache() -> None:
    """zai-org/glm-4v-9b: 13.9B parameters with 63 vision layers; Qwen-VL's tower is in the reference headers."""
    arch = read(
        "chatglm",
        hidden_size=4096,
        num_layers=40,
        num_attention_heads=32,
        kv_channels=128,
        multi_query_attention=True,
        multi_query_group_num=2,
        ffn_hidden_size=13696,
        padded_vocab_size=151552,
        add_qkv_bias=True,
        vision_config={
            "hidden_size": 1792,
            "num_hidden_layers": 63,
            "num_heads": 16,
            "intermediate_size": 15360,
            "patch_size": 14,
            "num_positions": 6401,
            "in_channels": 3,
        },
    )
    assert round(arch.expected_parameters() / 1e9, 1) == 13.9
    assert (arch.num_hidden_layers, len(arch.layers)) == (40, 103)
    assert [layer.stack for layer in arch.layers] == ["decoder"] * 40 + ["vision"] * 63


def test_too_many_layers_are_an_error_not_a_list() -> None:
    with pytest.raises(ContradictionError, match="beyond any real model"):
        read("llama", **{**SMALL, "num_hidden_layers": 10**9})


def test_opt_350m_projects_its_embedding_and_has_no_last_norm() -> None:
    """facebook/opt-350m: 331,196,416 parameters (reference data, measured with transformers)."""
    small = read(
        "opt",
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        ffn_dim=4096,
        vocab_size=50272,
        word_embed_proj_dim=512,
        do_layer_norm_before=False,
        max_position_embeddings=2048,
    )
    assert small.expected_parameters() == 331_196_416
    names = {s.pattern for s in small.tensors}
    assert "model.decoder.project_in.weight" in names
    assert "model.decoder.final_layer_norm.weight" not in names


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


def test_ernie_places_its_experts() -> None:
    keys = llama_keys(64, 6, 4, 2, 128, 100, head_dim=16, moe_num_experts=4, moe_k=2, moe_intermediate_size=32)
    arch = read("ernie4_5_moe", **keys, moe_layer_start_index=1, moe_layer_end_index=4, moe_layer_interval=2)
    routed = next(s for s in arch.tensors if s.pattern.endswith("experts.{}.gate_proj.weight"))
    assert {layer for box in routed.boxes for layer in box[0]} == {1, 3}


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


@pytest.mark.parametrize(
    ("model_type", "published", "heads"),
    [
        ("qwen2", "Qwen2ForTokenClassification", {"score.weight": (3, 64), "score.bias": (3,)}),
        ("gpt_neox", "GPTNeoXForTokenClassification", {"classifier.weight": (3, 64), "classifier.bias": (3,)}),
        ("llama", "LlamaForSequenceClassification", {"score.weight": (3, 64)}),
        (
            "qwen2",
            "Qwen2ForProcessRewardModel",
            {"score.0.weight": (64, 64), "score.0.bias": (64,), "score.2.weight": (3, 64), "score.2.bias": (3,)},
        ),
        ("internlm2", "InternLM2ForRewardModel", {"v_head.weight": (1, 64)}),
    ],
)
def test_task_heads(model_type: str, published: str, heads: dict[str, tuple[int, ...]]) -> None:
    arch = read(model_type, **SMALL, architectures=[published], id2label={"0": "a", "1": "b", "2": "c"})
    assert {s.pattern: s.shape for s in arch.tensors if s.component == "other" and not s.buffer} == heads
    assert not [s for s in arch.tensors if s.component == "lm_head"]


@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("qwen", {"hidden_size": 64}),
        ("internlm2", {"hidden_size": 64, "num_attention_heads": 4}),
        ("baichuan", llama_keys(64, 2, 4, 4, 128, 100) | {"intermediate_size": None}),
        ("minicpm", {}),
        ("nemotron-nas", {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}),
    ],
)
def test_a_missing_key_is_named(model_type: str, keys: dict[str, Any]) -> None:
    with pytest.raises(MissingKeyError, match=r"config\.json: '\w+'"):
        read(model_type, **keys)


def test_too_many_experts_per_token() -> None:
    with pytest.raises(HfmemError, match="9 experts per token cannot be picked from 8"):
        read("mixtral", num_local_experts=8, num_experts_per_tok=9)


def test_a_draft_wants_one_cache_a_layer() -> None:
    draft = Draft(Config({"model_type": "llama", **SMALL}))
    with pytest.raises(ContradictionError, match="0 layers described for 6"):
        draft.close("llama", [])
