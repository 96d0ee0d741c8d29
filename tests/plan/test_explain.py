"""`explain` against the numbers of the articles that the project grew from, and the steps against their own sums."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from hfmem.api.estimates import explain as explain_model
from hfmem.api.estimates import layer_table, read_model
from hfmem.cli import main
from hfmem.errors import UnsupportedError
from hfmem.hub import FetchOptions
from hfmem.memory.engines import engine
from hfmem.memory.runtime import flat_overhead
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.registry import read_architecture
from hfmem.model.parameters import count_parameters
from hfmem.plan.explain import Explanation, explain
from hfmem.plan.steps import Section, Step
from hfmem.render.explain import markdown_lines, text_lines
from hfmem.render.lines import wrap
from hfmem.report import RuntimeItem

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LLAMA_2_13B = LLAMA_3_8B | {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "float16",
}
OPT_175B = {
    "architectures": ["OPTForCausalLM"],
    "model_type": "opt",
    "hidden_size": 12288,
    "word_embed_proj_dim": 12288,
    "ffn_dim": 49152,
    "num_hidden_layers": 96,
    "num_attention_heads": 96,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "torch_dtype": "float16",
}
MIXTRAL = LLAMA_3_8B | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
}
MISTRAL_V01 = LLAMA_3_8B | {"model_type": "mistral", "sliding_window": 4096, "vocab_size": 32000}
A100_40GB = 40 * 10**9


def explained(
    config: dict[str, object], context: int, num_seqs: int = 1, percent: int = 0, device_bytes: int | None = None
) -> Explanation:
    """On one rank, with a flat overhead of so many percent."""
    arch, serving = read_architecture(config), Serving(context, num_seqs)
    parameters, share = count_parameters(arch), Fraction(percent, 100)
    plain = parameters.weights_bytes, engine("ideal").cache(arch, serving).bytes
    flat = flat_overhead(*plain, share)
    runtime = {"overhead_bytes": RuntimeItem(flat.bytes, flat.low, flat.high, flat.grade, flat.source)}
    return explain(
        "a model",
        arch,
        parameters,
        serving,
        runtime=runtime if percent else None,
        overhead=(share, sum(plain)),
        device_bytes=device_bytes,
    )


def section(explanation: Explanation, title: str) -> Section:
    return next(part for part in explanation.sections if part.title.startswith(title))


def step(part: Section, title: str) -> Step:
    return next(found for found in part.steps if found.title.startswith(title))


def test_llama_3_8b_parameters_add_up_as_in_the_article() -> None:
    part = section(explained(LLAMA_3_8B, 8192), "Parameters")
    assert step(part, "Embedding").result == 525_336_576
    assert step(part, "Attention").result == 32 * (16_777_216 + 4_194_304 + 4_194_304 + 16_777_216)
    assert step(part, "MLP").result == 32 * 3 * 58_720_256
    head = step(part, "Output head")
    assert (head.result, head.running) == (525_336_576, 8_029_995_008)
    assert step(part, "Norms").running == 8_030_257_152
    assert step(part, "Final norm").running == 8_030_261_248
    assert part.result == 8_030_261_248


def test_llama_3_8b_shows_the_naive_cache_and_the_real_one() -> None:
    part = section(explained(LLAMA_3_8B, 128_000), "Cache at")
    naive = step(part, "By the naive formula")
    assert naive.result == 67_108_864_000  # the article's 67.1 GB, with all 32 heads
    assert part.result * 4 == naive.result
    assert naive.note is not None
    assert "4.0 × too much" in naive.note
    assert "8 K/V heads serve 32 heads in 32 layers" in naive.note


def test_attention_names_its_group() -> None:
    attention = step(section(explained(LLAMA_3_8B, 1), "Parameters"), "Attention")
    assert attention.note == "grouped-query attention: 32 heads share 8 K/V heads of 128, 4 heads to each"
    assert attention.formula == "32 × (q_proj, o_proj 2 × 4,096 × 4,096 + k_proj, v_proj 2 × 1,024 × 4,096)"


def test_llama_2_13b() -> None:
    told = explained(LLAMA_2_13B, 8192, 10, percent=10, device_bytes=A100_40GB)
    assert round(section(told, "Weights").result / 1e9) == 26
    assert section(told, "Cache per token").result == 800 * 1024
    cache = section(told, "Cache at")
    assert cache.result == 67_108_864_000  # "66 to 67 GB"
    assert not [part for part in cache.steps if part.title.startswith("By the naive")]  # multi-head: the formula holds
    total = section(told, "Total")
    assert 101e9 < total.result < 103e9  # the article, with 66 GB of cache: 101.2
    assert total.result == told.total_bytes
    assert step(total, "Devices").result == 3


def test_opt_175b() -> None:
    told = explained(OPT_175B, 8192, 1, percent=10, device_bytes=A100_40GB)
    assert round(section(told, "Weights").result / 10**10) == 35  # 350 GB
    assert section(told, "Cache at").result == 36 * 2**30
    # the article adds 350 GB and 36 and takes 10 %: 424.6; the cache is 36 GiB, which is 38.7 GB
    assert abs(section(told, "Total").result - 424.6e9) < 3e9
    assert step(section(told, "Total"), "Devices").result == 11


def test_total_is_weights_and_cache_and_overhead_rounded_up() -> None:
    told = explained(LLAMA_3_8B, 8191, 3, percent=10)
    plain = 8_030_261_248 * 2 + 3 * 8191 * 131_072
    assert told.total_bytes == plain + -(-plain // 10)


@pytest.mark.parametrize("config", [LLAMA_3_8B, LLAMA_2_13B, OPT_175B, MIXTRAL, MISTRAL_V01])
def test_every_section_adds_up(config: dict[str, object]) -> None:
    told = explained(config, 32_768, 2)
    arch: Architecture = read_architecture(config)
    parameters = section(told, "Parameters")
    summed = [part for part in parameters.steps if part.running is not None]
    assert sum(part.result for part in summed) == parameters.result == arch.expected_parameters()
    assert sum(part.result for part in section(told, "Weights").steps) == section(told, "Weights").result
    cache = section(told, "Cache at")
    assert sum(part.result for part in cache.steps if part.running is not None) == cache.result
    assert cache.result == engine("ideal").cache(arch, Serving(32_768, 2)).bytes


def test_experts_and_active_parameters() -> None:
    part = section(explained(MIXTRAL, 1), "Parameters")
    experts = step(part, "Experts")
    assert experts.result == 32 * (8 * 3 * 4096 * 14336 + 8 * 4096)
    assert experts.note == "a router picks 2 of 8 experts for each token"
    assert step(part, "Active").result == part.result - 32 * 6 * 3 * 4096 * 14336


def test_a_window_is_the_reason() -> None:
    told = explained(MISTRAL_V01, 32_768)
    part = section(told, "Cache at")
    assert part.result == 131_072 * 4096
    naive = step(part, "By the naive")
    assert naive.note is not None
    assert "32 layers keep 4,096 tokens at most" in naive.note
    assert section(told, "Cache per token").result == 0


def test_an_engine_that_holds_more_is_shown() -> None:
    arch = read_architecture(MISTRAL_V01)
    serving = Serving(32_768)
    held = engine("vllm").cache(arch, serving)
    told = explain("a model", arch, count_parameters(arch), serving, engine=held)
    assert step(section(told, "Cache at"), "As vllm holds it").result == held.bytes
    assert told.total_bytes == count_parameters(arch).weights_bytes + held.bytes


def test_stored_tensors_decide() -> None:
    arch = read_architecture(LLAMA_3_8B)
    report = count_parameters(arch)
    more = type(report)(
        report.total + 7, report.active + 7, report.by_component, report.weights_bytes, report.weights_by_dtype,
        report.weights_by_component, "headers", True, report.groups,
    )  # fmt: skip
    part = section(explain("a model", arch, more, Serving(1)), "Parameters")
    assert step(part, "As stored").result == 8_030_261_255
    assert part.result == 8_030_261_255


def test_text_has_the_numbers_and_wraps() -> None:
    items = text_lines(explained(LLAMA_3_8B, 131_072))
    lines = [item.text for item in items]
    assert "  → 8,030,261,248 parameters" in lines
    assert "    = 1,342,177,280 parameters   (so far 1,867,513,856)" in lines
    assert "  → 131,072 bytes a token = 128 KiB" in lines
    assert "  → 17,179,869,184 bytes = 16.00 GiB" in lines
    narrow = [piece.text for item in items for piece in wrap(item, 80)]
    assert max(map(len, narrow)) <= 80
    assert "".join("".join(narrow).split()) == "".join("".join(lines).split())


def test_markdown_cells_stay_cells() -> None:
    told = explain(
        "a|b<script>", read_architecture(LLAMA_3_8B), count_parameters(read_architecture(LLAMA_3_8B)), Serving(1)
    )
    lines = list(markdown_lines(told))
    assert lines[0] == "## a\\|b&lt;script>"
    tables = [part.splitlines() for part in "\n".join(lines).split("\n\n") if part.startswith("|")]
    for rows in tables:  # as wide as its head: notes are a column where there are any
        assert {line.count("|") - line.count("\\|") for line in rows} in ({4}, {5})
    assert len(tables) == 5


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["explain", *words])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("meta-llama/Meta-Llama-3-8B", "--ctx", "128000", "--engine", "ideal", "--offline")
    text = run(capsys, *words)
    assert "→ 8,030,261,248 parameters" in text
    assert "= 67,108,864,000 bytes" in text
    told = json.loads(run(capsys, *words, "--json"))
    assert [part["title"] for part in told["sections"]] == [
        "Parameters",
        "Weights",
        "Cache per token",
        "Cache at 128,000 tokens",
        "Total",
    ]
    assert told["total_bytes"] == 16_060_522_496 + 128_000 * 131_072
    assert run(capsys, *words, "--markdown").startswith("## meta-llama/Meta-Llama-3-8B\n")


def test_command_counts_overhead_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "--ctx",
        "8192",
        "--batch",
        "10",
        "--engine",
        "ideal",
        "--overhead",
        "10%",
        "--device-memory",
        "40GB",
        "--json",
    )
    told = json.loads(run(capsys, "meta-llama/Llama-2-13b-hf", "--offline", *words))
    (devices,) = (part for part in told["sections"][-1]["steps"] if part["unit"] == "GPUs")
    assert devices["result"] == 3


def test_an_encoder_is_told_apart_from_its_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "openai/whisper-large-v3-turbo", "--offline")
    # of a decoder layer: q, k, v and o of self and cross attention, all but k with a bias
    size = 4 * (8 * 1280 * 1280 + 6 * 1280)
    _, _, decoder = text.partition("Attention, 4 decoder layers\n")
    assert f"= {size:,} parameters" in decoder.splitlines()[1]
    assert decoder.splitlines()[2].strip() == "multi-head attention: each of the 20 heads has its own K and V of 64"


def test_packed_experts_and_scales_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """gpt-oss 20B: 24 layers of 32 experts, 3 × 2,880 × 2,880 numbers of 4 bits each, and a byte of scale for 32 of them."""
    numbers = 24 * 32 * 3 * 2880 * 2880
    text = run(capsys, "openai/gpt-oss-20b", "--offline", "--ctx", "4k")
    assert f"{numbers // 2 + numbers // 32:,} × 1 byte" in text
    assert "several parameters are packed in one element" in text
    fp8 = run(capsys, "deepseek-ai/DeepSeek-V3", "--offline", "--ctx", "4k")
    assert "buffers, scales or tied copies are stored too" in fp8  # block scales in F32
    assert "multi-token-prediction layers do not run in plain decoding" in fp8


def test_windows_heads_and_scales_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Gemma 3 27B: 62 layers of 16 heads for 32, every sixth of them full; int8 has a scale of 4 bytes for each vector of 128."""
    text = run(capsys, "google/gemma-3-27b-it", "--offline", "--ctx", "32k", "--kv-dtype", "int8")
    assert "10 layers × 2 (K and V) × 16 heads × (128 × 1 byte + 4 of scales)" in text
    naive, needed = 2 * 62 * 32 * 128 * 32768, 2 * 16 * (128 + 4) * (10 * 32768 + 52 * 1024)
    told = f"{naive / needed:.1f} × too much: 16 K/V heads serve 32 heads in 62 layers; 52 layers keep 1,024 tokens at most"
    assert told in " ".join(text.split())
    plain = run(capsys, "google/gemma-3-27b-it", "--offline", "--ctx", "32k")
    assert "16 heads × 128 × 2 bytes" in plain
    packed = run(capsys, "google/gemma-3-27b-it", "--offline", "--ctx", "32k", "--kv-dtype", "nvfp4")
    assert "(128 × 4 bits + 8 of scales)" in packed


def test_the_engine_is_one_that_serves_the_model() -> None:
    t5 = read_model("google-t5/t5-small", fetch=FetchOptions(offline=True, no_cache=True))
    assert layer_table(t5).serving.engine == "transformers"  # vLLM 0.33 has no T5
    for asked in (
        layer_table,
        explain_model,
    ):  # as the estimate: another engine's numbers would not be what was asked for
        with pytest.raises(UnsupportedError, match="serves no encoder-decoder model"):
            asked(t5, engine="vllm")


@pytest.mark.parametrize("engine", [None, "ideal", "vllm", "sglang", "transformers", "llama.cpp"])
@pytest.mark.parametrize("words", [(), ("--overhead", "10%")])
@pytest.mark.parametrize("model", ["meta-llama/Meta-Llama-3-8B", "google/gemma-3-27b-it", "openai-community/gpt2"])
def test_the_sum_is_the_estimates(
    model: str, words: tuple[str, ...], engine: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two ways to one number; and the steps of the sum add up to it."""
    words = (
        model,
        "--ctx",
        "1000",
        "--batch",
        "3",
        *words,
        *(("--engine", engine) if engine else ()),
        "--offline",
        "--json",
    )
    told = json.loads(run(capsys, *words))
    with pytest.raises(SystemExit):
        main(list(words))
    assert told["total_bytes"] == json.loads(capsys.readouterr().out)["total_bytes"]
    steps = told["sections"][-1]["steps"]
    assert sum(step["result"] for step in steps) == told["total_bytes"] == steps[-1]["running"]
