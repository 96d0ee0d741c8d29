"""What drafts, in each engine's own words: from a head's config to the command.

Lists carried over from the sources: vLLM 0.33.0 `config/speculative.py` (`SpeculativeMethod`, the fields of `SpeculativeConfig`),
SGLang 0.5.23 `srt/speculative/spec_info.py` (`SpeculativeAlgorithm`) and `srt/arg_groups/fields/spec.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from launches import launch, words

from hfmem.errors import UsageError
from hfmem.memory.drafts import Drafter
from hfmem.model.families.draft_types import DRAFT_CLASSES
from hfmem.model.families.registry import read_architecture
from hfmem.plan.launch import emit

VLLM_METHODS = {"ngram", "draft_model", "suffix", "custom_class", "eagle", "eagle3", "extract_hidden_states", "mtp", "dflash",
                "ngram_gpu", "dspark"}  # fmt: skip
VLLM_FIELDS = {"method", "model", "num_speculative_tokens", "parallel_drafting", "use_heterogeneous_vocab"}
SGLANG_ALGORITHMS = {"DFLASH", "UNO", "DSPARK", "EAGLE", "EAGLE3", "FROZEN_KV_MTP", "STANDALONE", "NGRAM", "NEXTN"}
#: a head of a model with 512 channels
SHAPE: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 2048, "max_position_embeddings": 8192, "dtype": "bfloat16",
    "markov_rank": 16,
}  # fmt: skip
FORMAT = {"speculators_model_type": "peagle", "transformer_layer_config": dict(SHAPE)}
TARGET = SHAPE | {"num_hidden_layers": 4, "architectures": ["LlamaForCausalLM"]}


def drafter(**more: Any) -> Drafter:
    return Drafter(read_architecture(SHAPE | more), ())


@pytest.mark.parametrize(
    ("name", "method", "algorithm"),
    [
        ("EagleLlamaForCausalLM", "eagle", None),  # SGLang's class is LlamaForCausalLMEagle
        ("LlamaForCausalLMEagle", None, "EAGLE"),  # vLLM would look for EagleLlamaForCausalLMEagle
        ("LlamaForCausalLMEagle3", "eagle3", "EAGLE3"),
        ("Eagle3Qwen3ForCausalLM", "eagle3", None),
        ("PeagleLlamaForCausalLM", "eagle3", None),
        ("DFlashDraftModel", "dflash", "DFLASH"),
        ("DominoDraftModel", None, None),
        ("Qwen3DSparkModel", "dspark", "DSPARK"),
        ("LingDSparkModel", None, "DSPARK"),
        ("LlamaForCausalLM", "draft_model", "STANDALONE"),
    ],
)
def test_methods_and_algorithms(name: str, method: str | None, algorithm: str | None) -> None:
    found = drafter(architectures=[name], block_size=8, gru_hidden_dim=8, emb_dim=8)
    said = {"draft": "org/head", "draft_method": found.method, "draft_class": name, "draft_tokens": 4}
    assert name == "LlamaForCausalLM" or name in DRAFT_CLASSES
    if method is None:
        with pytest.raises(UsageError, match=f"vLLM 0.33 has no class for {name}"):
            emit("vllm", launch(**said))
    else:
        config = json.loads(words(emit("vllm", launch(**said)))[-1])
        assert config["method"] == method and method in VLLM_METHODS and config.keys() <= VLLM_FIELDS
        assert config["model"] == "org/head" and config["num_speculative_tokens"] == 4
        assert config.get("parallel_drafting", False) is (name == "PeagleLlamaForCausalLM")
    if algorithm is None:
        with pytest.raises(UsageError, match=f"SGLang 0.5.23 has no class for {name}"):
            emit("sglang", launch(engine="sglang", **said))
    else:
        text = words(emit("sglang", launch(engine="sglang", **said)))
        at = text.index("--speculative-algorithm")
        sizes = {"DFLASH": ["--speculative-num-draft-tokens", "5"], "DSPARK": ["--speculative-dspark-block-size", "4"]}
        steps = ["--speculative-num-steps", "4", "--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "5"]
        path = ["--speculative-draft-model-path", "org/head"]
        assert algorithm in SGLANG_ALGORITHMS
        assert text[at:] == ["--speculative-algorithm", algorithm, *path, *sizes.get(algorithm, steps)]


def test_peagle_in_its_own_format() -> None:
    """`speculators_model_type` peagle: vLLM's `build_vllm_speculative_config` makes it eagle3 with `parallel_drafting`."""
    assert Drafter(read_architecture(FORMAT), ()).method == "peagle"
    assert Drafter(read_architecture(FORMAT | {"speculators_model_type": "eagle3"}), ()).method == "eagle3"


def test_tokens_of_a_block() -> None:
    """DFlash's block of 16 holds the token before and 15 drafted ones, DSpark's of 7 is all drafted and verified in 8."""
    flash = drafter(architectures=["DFlashDraftModel"], dflash_config={"block_size": 16})
    spark = drafter(architectures=["Qwen3DSparkModel"], block_size=7)
    assert [(each.tokens("vllm"), each.tokens("sglang")) for each in (flash, spark)] == [(15, 16), (7, 8)]
    plain = drafter(architectures=["DFlashDraftModel"])
    assert (plain.tokens("vllm"), plain.tokens("sglang")) == (5, 4)


def test_layouts_that_sglang_does_not_draft_on() -> None:
    """STANDALONE without data-parallel attention, blocks on one stage and, in groups, with `--enable-dp-lm-head`."""
    block = {"draft": "org/head", "draft_method": "dflash", "draft_class": "DFlashDraftModel"}
    with pytest.raises(UsageError, match="one pipeline stage"):
        emit("sglang", launch(engine="sglang", pp=2, **block))
    assert "--enable-dp-lm-head" in words(emit("sglang", launch(engine="sglang", tp=4, attn_dp=2, **block)))
    assert "--enable-dp-lm-head" not in words(emit("sglang", launch(engine="sglang", tp=4, **block)))
    with pytest.raises(UsageError, match="STANDALONE"):
        emit("sglang", launch(engine="sglang", tp=4, attn_dp=2, draft="org/small"))
    with pytest.raises(UsageError, match="not with a head"):
        emit("transformers", launch(engine="transformers", **block))


def test_a_head_on_disk(run: Run, tmp_path: Path) -> None:
    """The whole way: configs without weights, a head whose config says its block."""
    for name, config in (
        ("target", TARGET),
        ("head", SHAPE | {"architectures": ["DFlashDraftModel"], "block_size": 16}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    target, head = str(tmp_path / "target"), str(tmp_path / "head")
    asked = ("--gpu", "h100", "--ctx", "4k", "--draft", head)
    code, out, err = run("fit", target, *asked, "--emit", "vllm")
    assert code == 0, err
    assert json.loads(words(out)[-1]) == {"method": "dflash", "model": head, "num_speculative_tokens": 15}
    code, out, err = run("fit", target, *asked, "--engine", "sglang", "--emit", "sglang")
    assert code == 0, err
    assert words(out)[-4:] == ["--speculative-algorithm", "DFLASH", "--speculative-draft-model-path", head]
