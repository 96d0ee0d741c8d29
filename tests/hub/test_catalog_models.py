"""Every model of the shipped catalogue is covered by a rule, agrees with its headers, and gives an estimate."""

from __future__ import annotations

import pytest

from hfmem.api.estimates import estimate, read_model
from hfmem.checkpoint.quantization import logical_groups
from hfmem.hub import FetchOptions
from hfmem.hub.catalog import catalog_names
from hfmem.model.crosscheck import check, contradictions

GATED = (
    "meta-llama/Llama-2-",
    "meta-llama/Meta-Llama-3-",
    "meta-llama/Llama-3.1-",
    "meta-llama/Llama-3.2-",
    "meta-llama/Llama-3.3-",
)


@pytest.mark.parametrize("name", catalog_names())
def test_model(name: str) -> None:
    read = read_model(name, fetch=FetchOptions(offline=True))
    if read.facts.checkpoint is not None:
        logical = logical_groups(read.facts.checkpoint, read.quantization)
        assert contradictions(check(read.architecture, read.facts.checkpoint, logical)) == ()
    report = estimate(read, context=4096)
    assert report.parameters.total > 0 and report.weights.bytes > 0
    assert report.total_bytes >= report.kv_cache.bytes
    assert report.model.notice and "catalogue" in report.model.notice


def test_gated_families_are_there() -> None:
    names = catalog_names()
    assert len(names) >= 60
    for prefix in (*GATED, "meta-llama/Llama-4-", "google/gemma-", "mistralai/Mistral"):
        assert any(name.startswith(prefix) for name in names), prefix


def test_kimi_k2_thinking_is_int4() -> None:
    """Its repository takes 594 GB: routed experts in int4 by groups of 32, all else in bf16."""
    read = read_model("moonshotai/Kimi-K2-Thinking", fetch=FetchOptions(offline=True))
    assert round(read.parameters.weights_bytes / 10**9) == 594


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("THUDM/glm-4-9b-chat", 131_072),
        ("01-ai/Yi-6B-Chat", 4_096),
        ("microsoft/Phi-3.5-mini-instruct", 131_072),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 128_000),
    ],
)
def test_contexts_are_the_publishers(name: str, tokens: int) -> None:
    """Lengths of the model cards: the copies at hand were changed for a compiler with short static shapes."""
    assert read_model(name, fetch=FetchOptions(offline=True)).architecture.max_position_embeddings == tokens


@pytest.mark.parametrize(
    ("name", "published", "beside"),
    [
        # `published`: what the Hub's metadata of the repository counts. `beside`: what it counts that is no weight.
        ("openai/gpt-oss-120b", 116_829_156_672, 0),
        ("openai/whisper-large-v3", 1_543_490_560, 0),
        ("Qwen/Qwen3.8-27B", 27_781_427_952, 0),
        ("Qwen/Qwen3.6-27B", 27_781_427_952, 0),
        ("Qwen/Qwen3.6-35B-A3B", 35_951_822_704, 0),
        ("Qwen/Qwen3.5-0.8B", 873_438_784, 0),
        ("Qwen/Qwen3.5-2B", 2_274_069_824, 0),
        ("Qwen/Qwen3.5-4B", 4_659_865_088, 0),
        ("Qwen/Qwen3.5-9B", 9_653_104_368, 0),
        ("Qwen/Qwen3.5-397B-A17B", 403_397_928_944, 0),
        ("Qwen/Qwen3-Coder-Next", 79_674_391_296, 0),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", 30_532_122_624, 0),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", 480_154_875_392, 0),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", 235_093_634_560, 0),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", 31_070_754_032, 0),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct", 235_670_022_896, 0),
        ("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, 0),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", 81_324_862_720, 0),
        ("deepseek-ai/DeepSeek-V2-Lite-Chat", 15_706_484_224, 0),
        ("Qwen/Qwen3-Reranker-8B", 8_188_548_096, 0),
        ("Qwen/Qwen3-Embedding-0.6B", 595_776_512, 0),
        ("Qwen/Qwen3-Embedding-4B", 4_021_774_336, 0),
        ("Qwen/Qwen3-Embedding-8B", 7_567_295_488, 0),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 0),
        ("Qwen/Qwen2.5-VL-32B-Instruct", 33_452_718_336, 0),
        ("BAAI/bge-m3", 567_754_752, 0),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", 24_011_361_280, 0),
        ("mistralai/Ministral-3-3B-Instruct-2512", 3_849_090_048, 0),
        ("mistralai/Ministral-3-8B-Instruct-2512", 8_918_026_716, 34 * 7 * 2),  # scales of weights and inputs
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 140_630_071_296, 0),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 401_583_781_376, 0),
        ("microsoft/phi-4", 14_659_507_200, 0),
        ("allenai/Olmo-3-7B-Instruct", 7_298_011_136, 0),
        ("allenai/Olmo-3-32B-Think", 32_233_522_176, 0),
        ("ibm-granite/granite-4.0-h-small", 32_207_337_984, 0),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1_711_376_384, 0),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 31_577_937_344, 0),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 123_611_012_096, 0),
        ("google/gemma-4-E2B-it", 5_123_178_051, 35),  # a scalar a layer
        ("google/gemma-4-E4B-it", 7_996_156_490, 42),
        ("MiniMaxAI/MiniMax-M2.7", 228_689_764_864, 62 * 256),  # a bias a routed expert, here and below
        ("deepseek-ai/DeepSeek-V3.2", 685_355_329_792, 59 * 256),
        ("zai-org/GLM-4.5-Air", 110_468_824_832, 46 * 128),
        ("zai-org/GLM-4.7", 358_337_791_296, 90 * 160),
        ("zai-org/GLM-5", 753_864_139_008, 76 * 256),  # without an embedding and a head for its prediction layer
        ("zai-org/GLM-5.3", 753_329_940_480, 76 * 256),
        ("zai-org/GLM-5.3-Flash", 321_323_031_390, 43 * 288),
        ("zai-org/GLM-4.6V", 107_710_933_120, 45 * 128),
        ("Qwen/Qwen3.8-Flash-Next", 179_999_981_424, 0),
        ("Qwen/Qwen3.8-2.4T-A95B", 2_446_182_725_504, 0),
        ("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600, 0),
        ("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616, 0),
        ("OpenGVLab/InternVL2_5-1B", 938_193_024, 0),
        ("OpenGVLab/InternVL2_5-2B", 2_205_754_368, 0),
        ("OpenGVLab/InternVL2_5-4B", 3_712_637_952, 0),
        ("OpenGVLab/InternVL2_5-8B", 8_075_365_376, 0),
        ("OpenGVLab/InternVL2_5-26B", 25_514_186_112, 0),
        ("OpenGVLab/InternVL2_5-38B", 38_388_164_992, 0),
        ("OpenGVLab/InternVL2_5-78B", 78_408_318_336, 0),
        ("openbmb/MiniCPM-V-2_6", 8_099_175_152, 0),
        ("internlm/internlm2-7b", 7_737_708_544, 0),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", 10_670_220_835, 0),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 108_641_793_536, 0),
        ("mistralai/Ministral-3-14B-Instruct-2512", 13_945_032_240, 40 * 7 * 2),
        ("mistralai/Devstral-Small-2-24B-Instruct-2512", 24_011_361_840, 40 * 7 * 2),
        ("google/gemma-4-12B-it", 11_959_730_224, 48),
        ("MiniMaxAI/MiniMax-M3", 427_040_140_160, 57 * 128),
        ("moonshotai/Kimi-K3", 2_779_931_837_184, 92 * 896),
        (
            "deepseek-ai/DeepSeek-V4-Flash",
            290_944_616_402,
            3 * 129_280 * 6 + 41 * 256,
        ),  # and what hashes tokens to experts
        ("deepseek-ai/DeepSeek-V4-Flash-0731", 304_180_418_494, 3 * 129_280 * 6 + 43 * 256),  # three draft layers
        ("deepseek-ai/DeepSeek-V4-Pro", 1_598_839_674_782, 3 * 129_280 * 6 + 59 * 384),
        ("deepseek-ai/DeepSeek-V4-Pro-0813", 1_650_497_936_906, 3 * 129_280 * 6 + 61 * 384),
        ("deepseek-ai/DeepSeek-V2", 235_741_434_880, 0),
        ("deepseek-ai/DeepSeek-R1", 684_489_845_504, 59 * 256),
        ("zai-org/GLM-4.7-Flash", 31_221_488_576, 47 * 64),  # with an embedding and a head for its prediction layer
        ("zai-org/GLM-4.5V", 107_710_933_120, 45 * 128),
        ("PrimeIntellect/INTELLECT-3", 106_852_251_264, 45 * 128),
        ("deepseek-ai/DeepSeek-OCR", 3_336_106_240, 0),
        ("moonshotai/Kimi-Linear-48B-A3B-Instruct", 49_122_681_728, 26 * 256),
        ("Qwen/Qwen3-Omni-30B-A3B-Instruct", 35_259_818_545, 0),
        ("Qwen/Qwen1.5-MoE-A2.7B", 14_315_784_192, 0),
        ("MiniMaxAI/MiniMax-M1-80k", 456_089_655_296, 0),
        ("inclusionAI/Ling-mini-2.0", 16_255_643_392, 19 * 256),
        ("inclusionAI/Ling-flash-2.0", 102_889_705_216, 31 * 256),
        ("inclusionAI/Ling-1T", 999_705_328_640, 76 * 256),
        ("meituan-longcat/LongCat-Flash-Chat", 561_862_880_256, 28 * 768),
        ("tencent/Hy3", 298_786_155_776, 80 * 192),
        ("moonshotai/Moonlight-16B-A3B", 15_960_111_936, 26 * 64 + 27 * 64),  # and each layer's inverse frequencies
        ("deepseek-ai/deepseek-moe-16b-base", 16_375_728_128, 0),
        ("poolside/Laguna-XS.2", 33_442_617_088, 0),
        ("poolside/Laguna-S-2.1", 117_561_977_600, 0),
        ("stepfun-ai/Step-3.5-Flash", 199_384_301_376, 42 * 288),
    ],
)
def test_derived_parameters_against_published_counts(name: str, published: int, beside: int) -> None:
    assert read_model(name, fetch=FetchOptions(offline=True)).parameters.total + beside == published


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # tensor bytes as published, beside the counts above: of gpt-oss the BF16 tensors and 17 bytes for 32 values
        # of an expert (MXFP4), of GLM 5.2 in FP8 the checkpoint
        # without the FP32 biases of its routers
        ("openai/gpt-oss-120b", 2 * 2_167_371_072 + 36 * 128 * 3 * 2880 * 2880 // 32 * 17),
        ("zai-org/GLM-5.2-FP8", 755_617_140_416 - 4 * 76 * 256),
        # decays and mixing weights in FP32, too; less routers' biases, 35 numbers that hash n-grams (I64)
        ("zai-org/GLM-5.3-Flash", 328_326_771_576 - 4 * 43 * 288),
        ("moonshotai/Kimi-K3", 1_560_860_324_864 - 4 * 92 * 896),
        ("Qwen/Qwen3.8-Flash-Next", 359_999_963_128 - 8 * 35),
        # FP8 of Qwen: scales of its blocks are BF16 in the file, 300 an expert, and the n-gram table has one scale
        (
            "Qwen/Qwen3.8-Flash-Next-FP8",
            185_502_232_570 - 8 * 35 + 2 * 49 * 512 * 300 + 4 * 320_001_536 // 128 * 2 - 2,
        ),
        ("google/gemma-4-26B-A4B-it", 51_611_872_412),
        ("google/gemma-4-31B-it", 62_546_177_752),
        ("google/gemma-4-E2B-it", 10_246_357_958),
        ("google/gemma-4-E4B-it", 15_992_314_836),
    ],
)
def test_derived_bytes_against_published_sizes(name: str, size: int) -> None:
    assert read_model(name, fetch=FetchOptions(offline=True)).parameters.weights_bytes == size


def test_glm_5_3_flash_part_by_part() -> None:
    """Bytes of the published headers: FP8 in blocks of 128 × 128, and in BF16 what its config lists by names of the text model."""
    parts = read_model("zai-org/GLM-5.3-Flash", fetch=FetchOptions(offline=True)).parameters.weights_by_component
    delta, latent, indexer = 9_366_356_992, 1_476_710_400, 164_381_184
    norms = 2 * (11 * (1536 + 512 + 2 * 128) + 34 * 128)  # of latents, the indexer's keys, the delta's heads
    assert parts["attention"] == delta + latent + indexer - norms
    assert parts["mlp"] == 1_057_222_656 + 453_095_424  # shared experts, dense layers
    assert parts["experts"] == 304_480_124_928 + 99_138_816 - 4 * 42 * 288  # with routers, without their biases
    assert parts["mtp"] == 243_872_384 + 7_249_526_784 - 4 * 288
    assert parts["vision"] == 1_127_254_016


def test_deepseek_v4_1_part_by_part() -> None:
    """Bytes by the published headers: FP4 experts, FP8 n-gram tables with a byte for each 32 of a row, FP8 in blocks of 32 × 32."""
    parts = read_model(
        "deepseek-ai/DeepSeek-V4.1-Flash", fetch=FetchOptions(offline=True)
    ).parameters.weights_by_component
    assert parts["experts"] == 288_777_830_400 + 2 * 40 * 384 * 5120  # and the routers, without their biases
    assert parts["mlp"] == 1_416_960_000
    projected = 2 * 25_600 * 6144 * (1 + 1 / 1024) + 2 * 2 * 4 * 5120 * 2  # wkv, and two norms a layer
    assert parts["embedding"] == 1_323_827_200 + 203_073_076_240 - projected
    assert parts["vision"] == 970_506_240 + 3 * 2 * 5120  # with three learnt tokens
    assert parts["lm_head"] == 1_323_827_200


def test_qwen_3_8_in_fp8() -> None:
    """407 tensors of its files are FP8 in blocks of 128 × 128, all of whole blocks; no head, embedding or tower."""
    h, inner, wide = 5120, 17_408, 6144
    linear = (10_240 + wide + wide) * h  # q, k and v; z; out
    full = (2 * wide + 2 * 1024) * h + wide * h
    fp8 = 48 * linear + 16 * full + (64 + 1) * 3 * h * inner + full
    read = read_model("Qwen/Qwen3.8-27B-FP8", fetch=FetchOptions(offline=True)).parameters
    assert read.weights_bytes == 2 * (27_781_427_952 - fp8) + fp8 + 4 * fp8 // 128**2


#: bytes by dtype in the headers of XiaomiMiMo's repositories: BF16, FP8 codes, packed FP4 with a byte for each 32 of them
MIMO = {
    "V2.6-Flash-RL": (8_202_616_064, 3_859_808_256, 160_859_947_008),
    "V2.6-Pro-RL": (21_294_573_312, 13_378_781_184, 531_351_207_936),
}


@pytest.mark.parametrize("name", MIMO)
def test_mimo_v2_6_dtype_by_dtype(name: str) -> None:
    """Experts in FP4 beside FP8, the way out of attention in BF16 in prediction layers, too; Pro's config does not name these."""
    read = read_model(f"XiaomiMiMo/MiMo-{name}", fetch=FetchOptions(offline=True)).parameters
    assert tuple(read.weights_by_dtype[dtype] for dtype in ("BF16", "F8_E4M3", "U8")) == MIMO[name]


def test_mimo_v2_5_pro_with_its_scales() -> None:
    """1,023,244,718,976 elements in 159,581 tensors: scales and corrections of 69 gates are no parameters.

    Queries, keys and values were quantized in 8 pieces: 216 rows of scales where 27,136 rows have 212 blocks.
    """
    read = read_model("XiaomiMiMo/MiMo-V2.5-Pro", fetch=FetchOptions(offline=True)).parameters
    scales = read.weights_by_dtype["F32"] // 4 + (70 + 3) * (216 - 212) * 48
    assert read.total + scales + 69 * 384 == 1_023_244_718_976


def test_mimo_v2_5_with_its_scales() -> None:
    """310,775,040,000 elements, as V2.5-Pro's are counted; q, k and v of 9 full layers in 4 pieces: 108 rows for 106 blocks."""
    read = read_model("XiaomiMiMo/MiMo-V2.5", fetch=FetchOptions(offline=True)).parameters
    assert read.total + read.weights_by_dtype["F32"] // 4 + 9 * 2 * 32 + 47 * 256 == 310_775_040_000


def test_deepseek_v4_flash_0731_as_stored() -> None:
    """165,265,454,782 elements in its headers, two codes in one of the experts'; a scale takes a byte there, 4 are assumed."""
    read = read_model("deepseek-ai/DeepSeek-V4-Flash-0731", fetch=FetchOptions(offline=True)).parameters
    sizes = read.weights_by_dtype
    stored = sizes["U8"] + sizes["F8_E4M3"] + sizes["BF16"] // 2 + sizes["F32"] // 4
    assert stored + 3 * 129_280 * 6 + 43 * 256 == 165_265_454_782


@pytest.mark.parametrize(
    ("name", "stored", "beside"),
    [
        ("moonshotai/Kimi-K2.7-Code", 170_738_182_128, 60 * 384),  # eight int4 codes in one, two numbers for a shape
        ("Qwen/Qwen3-32B-AWQ", 5_731_472_384, 0),
    ],
)
def test_packed_elements_against_published_headers(name: str, stored: int, beside: int) -> None:
    sizes = read_model(name, fetch=FetchOptions(offline=True)).parameters.weights_by_dtype
    widths = {"I32": 4, "I64": 8, "BF16": 2, "F16": 2}
    assert sum(size // widths[dtype] for dtype, size in sizes.items() if size) + beside == stored


def test_minimax_m3_in_mxfp8() -> None:
    """By its headers: codes of a byte, a byte for each 32 of a row; no gate, table, head or encoder (names in `ignored_layers`)."""
    h, inner, wide, sparse = 6144, 3072, 8192, 57
    attention = 60 * (2 * wide + 2 * 512) * h + sparse * (128 + 512) * h
    dense, experts = 3 * 3 * h * 12_288, sparse * (128 + 1) * 3 * h * inner
    sizes = read_model("MiniMaxAI/MiniMax-M3-MXFP8", fetch=FetchOptions(offline=True)).parameters.weights_by_dtype
    assert sizes["F8_E4M3"] == attention + dense + experts
    assert sizes["U8"] == sizes["F8_E4M3"] // 32
    assert sizes["F32"] == 4 * (
        57 * 128 * 6144 + 1280 * 3 * 2 * 14 * 14
    )  # routers, what makes vectors of an image's patches
    assert f"{(sum(sizes.values()) + 4 * 57 * 128) / 2**30:.2f}" == "413.27"  # with corrections


def test_minimax_m2_7_with_its_scales() -> None:
    """228,703,644,928 elements in 214.32 GiB (96,103 tensors): scales and corrections are no parameters; routers are in FP32."""
    read = read_model("MiniMaxAI/MiniMax-M2.7", fetch=FetchOptions(offline=True)).parameters
    routers, corrections = 62 * 256 * 3072, 62 * 256
    scales = read.weights_by_dtype["F32"] // 4 - routers
    assert read.total + scales + corrections == 228_703_644_928
    assert f"{(read.weights_bytes + 4 * corrections) / 2**30:.2f}" == "214.32"


@pytest.mark.parametrize(
    ("name", "hashed", "size"),
    [("DeepSeek-V4-Pro", 3 * 129_280 * 6, "805.32"), ("DeepSeek-V4-Flash", 3 * 129_280 * 6, "148.65")],
)
def test_deepseek_v4_mixes_its_streams_in_fp32(name: str, hashed: int, size: str) -> None:
    """GiB of the published tensors, with the experts of each token's number (I64): of Pro 0.16 for mixing weights alone."""
    read = read_model(f"deepseek-ai/{name}", fetch=FetchOptions(offline=True)).parameters
    assert f"{(read.weights_bytes + 8 * hashed) / 2**30:.2f}" == size


def test_kimi_linear_decays_in_fp32() -> None:
    """49,122,681,728 elements, of which 20 layers' 32 decays and 4,096 biases of steps are in FP32; corrections are in BF16."""
    read = read_model("moonshotai/Kimi-Linear-48B-A3B-Instruct", fetch=FetchOptions(offline=True)).parameters
    assert read.weights_by_dtype["F32"] == 4 * 20 * (32 + 4096)
    assert read.weights_bytes == 2 * (49_122_681_728 - 26 * 256) + 2 * 20 * (32 + 4096)


def test_qwen3_next_in_fp8_with_its_scales() -> None:
    """81,329,784,384 elements in 76.40 GiB (151,479 tensors): `in_proj_ba`, convolutions, gates, head and `mtp.fc` stay in BF16."""
    read = read_model("Qwen/Qwen3-Next-80B-A3B-Instruct-FP8", fetch=FetchOptions(offline=True)).parameters
    assert read.total + read.weights_by_dtype["F32"] // 4 == 81_329_784_384
    assert f"{read.weights_bytes / 2**30:.2f}" == "76.40"


@pytest.mark.parametrize(
    ("name", "stored", "buffers"),
    [
        ("Qwen/Qwen3-8B-FP8", 8_191_159_296, 0),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507-FP8", 30_533_947_392, 0),
        ("deepseek-ai/DeepSeek-V3.2", 685_396_921_376, 59 * 256),
        ("moonshotai/Kimi-K2-Instruct", 1_026_470_731_056, 60 * 384 + 61 * 56),  # and inverse frequencies
    ],
)
def test_fp8_with_its_scales(name: str, stored: int, buffers: int) -> None:
    """Elements in the published headers, one of a scale for each block of 128 × 128 and those of what is left of one."""
    read = read_model(name, fetch=FetchOptions(offline=True)).parameters
    assert read.total + read.weights_by_dtype["F32"] // 4 + buffers == stored


def test_glm_4_5_in_fp8_with_its_scales() -> None:
    """358,458,543,424 elements: a scale a row, in FP32 where others of its kind have the model's dtype; the second head in FP8."""
    read = read_model("zai-org/GLM-4.5-FP8", fetch=FetchOptions(offline=True)).parameters
    codes = read.weights_by_dtype["F8_E4M3"]
    scales = read.weights_by_dtype["BF16"] // 2 - (read.total - codes)
    assert read.total + scales + 90 * 160 == 358_458_543_424
    assert f"{(read.weights_bytes + 2 * scales) / 2**30:.2f}" == "336.47"


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("tiiuae/falcon-180B", 360),  # its card
        ("MiniMaxAI/MiniMax-M1-80k", 912),  # the repository's 849.6 GiB
        ("facebook/opt-66b", 131),  # 65.7 B parameters in float16
        ("tiiuae/falcon-rw-1b", 2.6),
    ],
)
def test_old_configs_are_in_the_dtype_of_their_files(name: str, gigabytes: float) -> None:
    """Configs that name no dtype are read as float32, as transformers does: the catalogue names it where the files are in half."""
    size = read_model(name, fetch=FetchOptions(offline=True)).parameters.weights_bytes / 10**9
    assert abs(size - gigabytes) < 0.01 * gigabytes


@pytest.mark.parametrize("name", catalog_names())
def test_no_dtype_is_assumed(name: str) -> None:
    read = read_model(name, fetch=FetchOptions(offline=True))
    assert "dtype_assumed" not in {note.code for note in read.parameters.notes}
