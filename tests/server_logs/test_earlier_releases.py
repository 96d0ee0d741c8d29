"""vLLM's pools of DeepSeek V4 before 0.29, settings that few lines tell, and recipes of quantized copies."""

from __future__ import annotations

import pytest
from verified_logs import OFFLINE, by_name, compare

from hfmem.api.reading import in_format, read_model
from hfmem.memory.engines.vllm import layout
from hfmem.memory.engines.vllm.earlier import earlier_admitted_bytes, earlier_pool
from hfmem.memory.engines.vllm.releases import LATEST
from hfmem.memory.serving import Serving
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.recipes import format_by_name, recipes
from hfmem.server_logs.verify import verify_log
from hfmem.server_logs.vllm_release import rivals
from hfmem.units import GIB

V4 = "deepseek-ai/DeepSeek-V4-Flash"
#: pages of the first group's three sizes, and how many of each a block of 0.23 has
PAGES = ((37_440, 22), (8_640, 21), (1_728, 20))


def _serving(context: int, step: int) -> Serving:
    return Serving(context, kv_dtype="fp8", engine="vllm", tp=2, max_num_batched_tokens=step, steps_in_flight=1)


def test_a_block_of_deepseek_v4_by_release() -> None:
    """Buckets of page sizes from 0.23 to 0.26; until 0.22 as many of every size as of the most frequent."""
    arch = read_model(V4, fetch=OFFLINE).architecture
    found = layout(arch, _serving(4096, 8192))
    bucketed, even = (earlier_pool(found, minor) for minor in (23, 22))
    assert bucketed is not None and even is not None
    assert bucketed.block_bytes == sum(size * count for size, count in PAGES)
    assert even.block_bytes == 22 * sum(size for size, _ in PAGES)
    assert earlier_pool(found, 27) is None and earlier_admitted_bytes(found, 29) is None
    # a log of 0.22: 30,000 tokens by steps of 16,384 need 6.66 GiB
    asked = earlier_admitted_bytes(layout(arch, _serving(30_000, 16_384)), 22)
    assert asked is not None and asked == pytest.approx(6.66 * GIB, abs=0.005 * GIB)


@pytest.mark.parametrize(("version", "gib", "tokens"), [("0.23.0", 29.07, 82_301), ("0.25.0", 32.08, 90_841)])
def test_logs_of_deepseek_v4(version: str, gib: float, tokens: int) -> None:
    """H200s under 0.23 and 0.25, a context of 4,096 tokens."""
    text = (
        f"Initializing a V1 LLM engine (v{version}) with config: model='{V4}', max_seq_len=4096, tensor_parallel_size=2,"
        " kv_cache_dtype=fp8\n"
        f"Available KV cache memory: {gib} GiB\nGPU KV cache size: {tokens:,} tokens\n"
    )
    assert compare(text, V4, max_num_batched_tokens=8192)["KV cache tokens"].difference == pytest.approx(0, abs=5e-4)


@pytest.mark.parametrize(
    ("line", "tp", "text_only"),
    [
        ("world_size=2 rank=1 local_rank=1 distributed_init_method=tcp://h:1 backend=nccl", 2, False),
        ("vllm serve a/b --tensor-parallel-size 4\nworld_size=8 rank=1 local_rank=1", 4, False),
        ('vllm serve a/b --limit-mm-per-prompt \'{"image":0,"video":0}\'', 1, True),
        ("vllm serve a/b --limit-mm-per-prompt image=1", 1, False),
        ("non-default args: {'limit_mm_per_prompt': {'image': 0, 'video': 1}}", 1, False),
        (
            "All limits of multimodal modalities supported by the model are set to 0, running in text-only mode.",
            1,
            True,
        ),
    ],
)
def test_settings_that_few_lines_tell(line: str, tp: int, text_only: bool) -> None:
    told = parse_log(f"{line}\nINFO Model loading took 9.96 GiB memory and 78.1 seconds\n").settings
    assert (told.tp, told.language_model_only) == (tp, text_only)


def test_what_a_copy_keeps_in_16_bit() -> None:
    """Linear attention kept: the copy is larger by its tensors in BF16 less in NVFP4, and nothing else changes."""
    base = "Qwen/Qwen3.6-35B-A3B"
    read = in_format(read_model(base, fetch=OFFLINE), "nvfp4")
    log = parse_log("vllm serve RedHatAI/Qwen3.6-35B-A3B-NVFP4\nModel loading took 21.86 GiB memory and 9 seconds\n")
    assert format_by_name(read, log) == "nvfp4"
    found = dict(recipes(read, "nvfp4"))
    kept = found["fits if the copy keeps its linear attention in 16 bit: its own config tells"]
    was = {group.pattern: group for group in read.parameters.groups}
    changed = {group.pattern for group in kept} ^ set(was)
    assert changed and all("linear_attn" in pattern for pattern in changed)
    text = (
        "Initializing a V1 LLM engine (v0.25.0) with config: model='RedHatAI/Qwen3.6-35B-A3B-NVFP4'\n"
        "Model loading took 21.86 GiB memory and 9 seconds\n"
    )
    item = by_name(verify_log(text, base, quant="nvfp4", fetch=OFFLINE).result)["weights"]
    assert item.reason is not None and "linear attention" in item.reason


@pytest.mark.parametrize(("version", "scale"), [("0.8.5", 1 / 64 + 4 / (64 * 256)), ("0.9.2", 4 / 64)])
def test_scales_of_bitsandbytes(version: str, scale: float) -> None:
    """`quantize_4bit(compress_statistics=True)`: a byte for 64 weights and four for 256 such bytes; from 0.9 four bytes for 64.
    Llama 3.1 8B has 32 x (2 x 4096² + 2 x 4096 x 1024 + 3 x 4096 x 14336) weights in matrices of its layers."""
    found = compare(
        f"Initializing a V1 LLM engine (v{version}) with config: model='meta-llama/Llama-3.1-8B', quantization=bitsandbytes\n"
        "Model loading took 5.00 GiB memory\n"
    )
    layers = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    table = 131_072 * 128 * 2
    expected = layers * (0.5 + scale) + 2 * (8_030_261_248 - layers) + table
    assert abs((found["weights"].predicted or 0) / expected - 1) < 0.002  # blocks of the allocator


@pytest.mark.parametrize("word", ["fp8", "fp8_per_tensor"])
def test_scales_of_fp8_made_while_loading(word: str) -> None:
    """A scale for each of 48 x 128 experts' two matrices: Qwen3-30B-A3B took 29.08 GiB in a log of 0.22.1; a scale of each of their
    1536 + 2048 rows would be 88 MB more."""
    found = compare(
        f"Initializing a V1 LLM engine (v0.22.1) with config: model='Qwen/Qwen3-30B-A3B-Instruct-2507', quantization={word}\n"
        "Model loading took 29.08 GiB memory\n"
    )
    assert abs((found["weights"].predicted or 0) - 29.08 * 2**30) < 20e6


@pytest.mark.parametrize(
    ("lines", "minors"),
    [
        (
            "GPU KV cache size: 160 tokens, Maximum concurrency for 100 tokens per request: 1.60x",
            (LATEST,),
        ),  # 0.28 or later
        (
            "vLLM API server version 0.28.0\nGPU KV cache size: 160 tokens, Maximum concurrency for 100 tokens per request: 1.60x",
            (),
        ),
        (
            "GPU KV cache size: 160 tokens\nMaximum concurrency for 100 tokens per request: 1.60x",
            (9, 27),
        ),  # any: whole blocks
        (
            "GPU KV cache size: 151 tokens\nMaximum concurrency for 100 tokens per request: 1.51x",
            (21, 27),
        ),  # no whole block
        (
            "GPU KV cache size: 160 tokens\nMaximum concurrency for 100 tokens per request: 1.40x",
            (9, 19),
        ),  # no multiple either
        ("Available KV cache memory: 4.00 GiB", (9, LATEST)),
    ],
)
def test_what_a_log_without_release_may_be(lines: str, minors: tuple[int, ...]) -> None:
    """From 0.21 the pool's tokens are concurrency x context, before it whole blocks; until 0.27 concurrency has its own line."""
    assert tuple(release.minor for release in rivals(parse_log(f"INFO vLLM\n{lines}\n"))) == minors
