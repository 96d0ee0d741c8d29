"""What drafts, in the table by layer and in the arithmetic: by hand from the shapes, and the estimate's own numbers again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfmem.api.estimates import Model, estimate, explain, layer_table, read_model
from hfmem.cli import main
from hfmem.errors import UnsupportedError, UsageError
from hfmem.hub import FetchOptions
from hfmem.plan.steps import Section, Step
from hfmem.units import format_bytes

CONTEXT, SEQS = 4096, 3
#: Llama 3.1 8B's EAGLE-3 head: a layer over [embedding, hidden], a projection of three hidden states, 32,000 tokens of its own
EAGLE3 = {
    "model_type": "llama", "architectures": ["LlamaForCausalLMEagle3"], "torch_dtype": "bfloat16", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "draft_vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
#: q, k and v over twice the width, o; the feed-forward; three hidden states to one; 32,000 logits; four norms
EAGLE3_SIZE = (4096 + 2 * 1024) * 2 * 4096 + 4096 * 4096 + 3 * 4096 * 14336 + 3 * 4096**2 + 32000 * 4096 + 4 * 4096
LLAMA_8B, LLAMA_1B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"


def read(name: str) -> Model:
    return read_model(name, fetch=FetchOptions(offline=True, no_cache=True))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("head")
    (place / "config.json").write_text(json.dumps(EAGLE3))
    return str(place)


def section(parts: tuple[Section, ...], title: str) -> Section:
    (found,) = (part for part in parts if part.title.startswith(title))
    return found


def step(part: Section, title: str) -> Step:
    (found,) = (one for one in part.steps if one.title.startswith(title))
    return found


@pytest.mark.parametrize("engine", ["vllm", "sglang", "transformers", "llama.cpp", "ideal"])
def test_a_smaller_model_beside_llama(engine: str) -> None:
    """A token: 2 × 8 heads × 128 × 2 bytes in each of 32 layers, 2 × 8 × 64 × 2 in each of the draft's 16; whole pages."""
    target, draft = read(LLAMA_8B), read(LLAMA_1B)
    table = layer_table(target, context=CONTEXT, num_seqs=SEQS, engine=engine, draft=draft)
    tokens = CONTEXT * SEQS
    assert [(row.stack, row.layers, row.bytes, row.engine_bytes) for row in table.runs] == [
        ("decoder", tuple(range(32)), 32 * 4096 * tokens, 32 * 4096 * tokens),
        ("draft", tuple(range(32, 48)), 16 * 2048 * tokens, 16 * 2048 * tokens),
    ]
    told = explain(target, context=CONTEXT, num_seqs=SEQS, engine=engine, draft=draft)
    assert section(told.sections, "Draft's parameters").result == 1_235_814_400  # its card: 1.24 B
    assert section(told.sections, "Draft's cache per token").result == 16 * 2048
    assert section(told.sections, "Draft's cache at").result == 16 * 2048 * tokens
    place = "in its target's pool" if engine in ("vllm", "sglang") else "beside its target's"
    assert step(told.sections[-1], "The draft's cache").title == f"The draft's cache, {place}"
    assert step(told.sections[-1], "The draft's cache").result == 16 * 2048 * tokens


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_eagle_head_over_llama(engine: str, head: str) -> None:
    target, draft = read(LLAMA_8B), read(head)
    told = explain(target, context=CONTEXT, engine=engine, draft=draft, draft_tokens=3)
    parameters = section(told.sections, "Draft's parameters")
    assert parameters.result == EAGLE3_SIZE == sum(one.result for one in parameters.steps)
    assert step(section(told.sections, "Draft's weights"), "Tensors in BF16").result == 2 * EAGLE3_SIZE
    assert section(told.sections, "Draft's cache per token").result == 2 * 8 * 128 * 2
    (_, row) = layer_table(target, context=CONTEXT, engine=engine, draft=draft).runs
    assert (row.stack, row.layers, row.bytes, row.engine_bytes) == ("draft", (32,), CONTEXT * 4096, CONTEXT * 4096)


def test_prediction_layer_of_deepseek_v3() -> None:
    """Its 62nd layer: latent attention (128 heads of 128 + 64, of values 128, ranks 1536 and 512), 256 experts and a shared one of
    2,048, a projection of two states; embedding and head are its target's, of which its files hold copies."""
    hidden, tables = 7168, 2 * 129_280 * 7168
    attention = hidden * 1536 + 1536 * 128 * 192 + hidden * 576 + 512 * 128 * 256 + 128 * 128 * hidden
    size = attention + 257 * 3 * hidden * 2048 + 256 * hidden + 2 * hidden * hidden + tables
    size += 5 * hidden + 1536 + 512  # norms: of both states, the block's two, the head's, the latents'
    target = read("deepseek-ai/DeepSeek-V3")
    told = explain(target, context=CONTEXT, engine="vllm", draft="mtp")
    part = section(told.sections, "Draft's parameters: the model's own prediction layers")
    assert part.result == size == sum(one.result for one in part.steps)
    weights = section(told.sections, "Draft's weights")
    stored = sum(one.result for one in weights.steps if one.title.startswith("Tensors"))
    loaded = step(weights, "As vllm loads them")
    assert stored - loaded.result == 2 * tables and loaded.note == "its target's embedding and head serve both"
    assert section(told.sections, "Draft's cache at").result == CONTEXT * (512 + 64) * 2
    _, row = layer_table(target, context=CONTEXT, engine="vllm", draft="mtp").runs
    assert (row.stack, row.kind, row.layers, row.engine_bytes) == ("predict", "latent", (61,), CONTEXT * 576 * 2)


PAIRS = [
    ("deepseek-ai/DeepSeek-V3", "mtp"),
    ("zai-org/GLM-4.5", "mtp"),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", "mtp"),
    ("google/gemma-3-27b-it", "google/gemma-3-1b-it"),
    (LLAMA_8B, LLAMA_1B),
]


@pytest.mark.parametrize("engine", ["ideal", "vllm", "sglang", "transformers", "llama.cpp"])
@pytest.mark.parametrize(("target", "draft"), PAIRS)
def test_sums_are_the_estimates(target: str, draft: str, engine: str) -> None:
    model, small = read(target), draft if draft == "mtp" else read(draft)
    asked: dict[str, Any] = {"context": 5000, "num_seqs": 2, "engine": engine, "draft": small, "draft_tokens": 2}
    report, told, table = estimate(model, **asked), explain(model, **asked), layer_table(model, **asked)
    assert told.total_bytes == report.total_bytes == sum(one.result for one in told.sections[-1].steps)
    assert told.draft == table.draft == report.draft is not None
    assert table.engine is not None and table.engine.bytes == report.kv_cache.bytes
    assert sum(row.bytes for row in table.runs) == report.kv_cache.ideal_bytes
    (added,) = {row.stack for row in table.runs} - {"decoder", "vision"}
    assert added == ("predict" if draft == "mtp" else "draft")


def test_windows_that_sglang_keeps_in_one_pool() -> None:
    """Gemma 3 27B, 2 × 16 × 128 bf16 numbers a token: SGLang 0.5.23 gives its windows no pool, all 62 layers keep every token."""
    table = layer_table(read("google/gemma-3-27b-it"), context=CONTEXT, engine="sglang")
    held = {row.kind: row.engine_bytes for row in table.runs}
    assert (held["sliding"], held["full"]) == (52 * CONTEXT * 2 * 16 * 128 * 2, 10 * CONTEXT * 2 * 16 * 128 * 2)


def test_a_draft_that_leaves_less_of_the_pages_unused(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside Gemma 3 27B the 1B model's layers change vLLM's groups: the pages of a request take less than without them."""
    words = (
        "google/gemma-3-27b-it",
        "--draft",
        "google/gemma-3-1b-it",
        "--ctx",
        "32k",
        "--engine",
        "vllm",
        "--offline",
    )
    size = layer_table(read(words[0]), context=32768, engine="vllm", draft=read(words[2])).draft
    assert size is not None and size.kv_cache_bytes < 0
    for command in ("layers", "explain", None):
        with pytest.raises(SystemExit):
            main([*([command] if command else []), *words])
        out = capsys.readouterr().out
        assert "-" + str(-size.kv_cache_bytes) + " B" not in out
        if command != "explain":
            assert f"{format_bytes(-size.kv_cache_bytes)} less" in " ".join(out.split())


def test_without_a_draft_nothing_of_one() -> None:
    model = read(LLAMA_8B)
    assert [row.stack for row in layer_table(model, context=64).runs] == ["decoder"]
    assert layer_table(model, context=64).draft is None
    assert not [part for part in explain(model, context=64).sections if part.title.startswith("Draft")]


@pytest.mark.parametrize("command", [explain, layer_table])
def test_what_cannot_draft_is_refused(command: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match="stores no prediction layers"):
        command(read(LLAMA_8B), draft="mtp")
    with pytest.raises(UsageError, match="--draft-tokens needs a draft"):
        command(read(LLAMA_8B), draft_tokens=3)
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        command(read(LLAMA_8B), engine="vllm", draft=read("google-t5/t5-small"))


def test_command_line(capsys: pytest.CaptureFixture[str], head: str) -> None:
    def run(*words: str) -> str:
        asked = f"{LLAMA_8B} --ctx 4k --engine vllm --draft-tokens 3 --offline --draft".split()
        with pytest.raises(SystemExit) as left:
            main([*words, *asked, head])
        assert left.value.code == 0
        return capsys.readouterr().out

    rows = json.loads(run("layers", "--json"))
    assert [row["stack"] for row in rows["layers"]] == ["decoder", "draft"]
    assert rows["draft"]["kv_cache_bytes"] == rows["layers"][1]["engine_bytes"] == 4096 * 4096
    out = run("layers")
    assert "32 draft" in out and "in vllm's pool, 16 MiB more with it" in out
    assert json.loads(run("explain", "--json"))["total_bytes"] == json.loads(run("--json"))["total_bytes"]
    assert Path(head).name in run("explain")
