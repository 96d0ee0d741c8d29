"""Counting rules of `hfmem.model.parameters`: every number is the product of published shapes, written out."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_by_hand import (
    ATTENTION,
    CONFIG,
    DIM,
    EMBEDDING,
    FF,
    HIDDEN,
    LAYERS,
    MLP,
    NORM,
    TOTAL,
    arch,
    checkpoint,
    counted,
    files,
)

from hfmem.checkpoint.grouping import boxes_of
from hfmem.checkpoint.quantization import logical_groups
from hfmem.checkpoint.tensors import TensorGroup
from hfmem.errors import MissingFileError
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component, Inventory
from hfmem.model.matching import Matcher, count_boxes, intersect, subtract
from hfmem.model.names import classify, core, is_buffer_name
from hfmem.model.parameters import (
    count_parameters,
)

# ---- headers --------------------------------------------------------------------------------------------------------------


def test_headers_give_components_bytes_and_evidence() -> None:
    report = count_parameters(arch(), checkpoint(files()))
    assert (report.total, report.active) == (TOTAL, TOTAL)
    assert counted(report) == {
        "embedding": EMBEDDING,
        "attention": ATTENTION,
        "mlp": MLP,
        "norm": NORM,
        "lm_head": EMBEDDING,
    }
    assert report.weights_bytes == 2 * TOTAL
    assert report.weights_by_dtype == {"BF16": 2 * TOTAL}
    assert sum(report.weights_by_component.values()) == 2 * TOTAL
    assert report.weights_by_component["mlp"] == 2 * MLP
    assert (report.evidence, report.exact) == ("headers", True)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "model.",
        "language_model.model.",
        "model.language_model.",
        "transformer.",
        "base_model.model.model.",
        "module.model.",
    ],
)
def test_wrappers_change_nothing(prefix: str) -> None:
    assert count_parameters(arch(), checkpoint(files(prefix))) == replace(
        count_parameters(arch(), checkpoint(files())), groups=checkpoint(files(prefix)).groups
    )


def test_a_tied_head_that_is_stored_counts_once_and_its_bytes_are_loaded() -> None:
    report = count_parameters(arch(tie_word_embeddings=True), checkpoint(files()))
    assert report.total == TOTAL - EMBEDDING
    assert report.by_component["lm_head"] == 0
    assert report.weights_bytes == 2 * TOTAL


def test_a_file_may_store_only_the_head_of_a_tied_pair() -> None:
    tensors = [tensor for tensor in files() if "embed_tokens" not in tensor[0]]
    report = count_parameters(arch(tie_word_embeddings=True), checkpoint(tensors))
    assert report.total == TOTAL - EMBEDDING
    assert report.by_component["embedding"] == EMBEDDING


def test_buffers_are_stored_and_are_no_parameters() -> None:
    tensors = [*files(), ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (DIM // 2,))]
    report = count_parameters(arch(), checkpoint(tensors))
    assert report.total == TOTAL
    assert report.weights_bytes == 2 * TOTAL + 4 * DIM // 2
    assert report.weights_by_dtype == {"BF16": 2 * TOTAL, "F32": 2 * DIM}


def test_an_unknown_tensor_is_a_parameter_of_its_own_kind() -> None:
    tensors = [*files(), ("model.strange.thing", "BF16", (3, 5)), ("visual.blocks.0.attn.qkv.weight", "BF16", (7, 11))]
    report = count_parameters(arch(), checkpoint(tensors))
    assert report.total == TOTAL + 15 + 77
    assert (report.by_component["other"], report.by_component["vision"]) == (15, 77)


def test_packed_weights_count_as_what_they_stand_for() -> None:
    """GPTQ, 4 bit, groups of 32: eight codes in an int32; the tool adds a bias of zeros that the model does not have."""
    tensors = [tensor for tensor in files() if ".mlp." not in tensor[0]]
    for i in range(LAYERS):
        for name, inputs, outputs in (("gate_proj", HIDDEN, FF), ("up_proj", HIDDEN, FF), ("down_proj", FF, HIDDEN)):
            at = f"model.layers.{i}.mlp.{name}"
            tensors += [
                (f"{at}.qweight", "I32", (inputs // 8, outputs)),
                (f"{at}.qzeros", "I32", (inputs // 32, outputs // 8)),
                (f"{at}.scales", "F16", (inputs // 32, outputs)),
                (f"{at}.g_idx", "I32", (inputs,)),
                (f"{at}.bias", "F16", (outputs,)),
            ]
    stored = checkpoint(tensors)
    report = count_parameters(arch(), stored)
    assert report.total == TOTAL
    assert report.by_component["mlp"] == MLP
    assert report.weights_bytes == stored.total_bytes
    assert report.weights_by_component["mlp"] == sum(g.total_bytes for g in stored.groups if ".mlp." in g.pattern)
    assert report == count_parameters(arch(), stored, logical=logical_groups(stored))


def test_without_an_architecture_names_decide() -> None:
    report = count_parameters(None, checkpoint(files()))
    assert counted(report) == counted(count_parameters(arch(), checkpoint(files())))


def test_nothing_to_count_is_an_error() -> None:
    with pytest.raises(MissingFileError, match="no tensor headers"):
        count_parameters(None)


# ---- experts --------------------------------------------------------------------------------------------------------------

EXPERTS, TOP_K, FF_EXPERT = 8, 2, 32
MIXTRAL = {
    **CONFIG,
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "intermediate_size": FF_EXPERT,
}
ROUTED = LAYERS * EXPERTS * 3 * HIDDEN * FF_EXPERT
ROUTER = LAYERS * EXPERTS * HIDDEN
MOE_TOTAL = ATTENTION + NORM + 2 * EMBEDDING + ROUTED + ROUTER


def moe_files(stacked: bool) -> list[tuple[str, str, tuple[int, ...]]]:
    out = [tensor for tensor in files() if ".mlp." not in tensor[0]]
    for i in range(LAYERS):
        at = f"model.layers.{i}.block_sparse_moe"
        out.append((f"{at}.gate.weight", "BF16", (EXPERTS, HIDDEN)))
        if stacked:
            out.append((f"{at}.experts.gate_up_proj", "BF16", (EXPERTS, HIDDEN, 2 * FF_EXPERT)))
            out.append((f"{at}.experts.down_proj", "BF16", (EXPERTS, FF_EXPERT, HIDDEN)))
            continue
        for e in range(EXPERTS):
            out += [
                (f"{at}.experts.{e}.w1.weight", "BF16", (FF_EXPERT, HIDDEN)),
                (f"{at}.experts.{e}.w2.weight", "BF16", (HIDDEN, FF_EXPERT)),
                (f"{at}.experts.{e}.w3.weight", "BF16", (FF_EXPERT, HIDDEN)),
            ]
    return out


@pytest.mark.parametrize("stacked", [False, True], ids=["one by one", "stacked"])
def test_a_token_uses_its_share_of_the_experts_and_all_of_the_router(stacked: bool) -> None:
    report = count_parameters(read_architecture(MIXTRAL), checkpoint(moe_files(stacked)))
    assert report.total == MOE_TOTAL
    assert report.by_component["experts"] == ROUTED + ROUTER
    assert report.active == MOE_TOTAL - ROUTED * (EXPERTS - TOP_K) // EXPERTS


def test_multi_token_prediction_counts_where_stored_and_is_never_active() -> None:
    inv = Inventory()
    inv.each("model.layers.{}.mlp.up_proj.weight", range(2), (4, 4), Component.MLP)
    inv.each("model.layers.{}.mlp.up_proj.weight", [2], (4, 4), Component.MTP, optional=True)
    inv.each("model.layers.{}.eh_proj.weight", [2], (4, 8), Component.MTP, optional=True)
    model = replace(arch(), tensors=tuple(inv.specs))
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    stored = [(name, "BF16", (4, 4)) for name in names]
    assert count_parameters(model, checkpoint(stored)).total == 32
    extra = [("model.layers.2.mlp.up_proj.weight", "BF16", (4, 4)), ("model.layers.2.eh_proj.weight", "BF16", (4, 8))]
    unlisted = [("model.layers.2.self_attn.strange.weight", "BF16", (5,))]  # of a layer that only MTP tensors have
    report = count_parameters(model, checkpoint([*stored, *extra, *unlisted]))
    assert (report.total, report.active, report.by_component["mtp"]) == (32 + 48 + 5, 32, 53)


# ---- matching -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("h.3.mlp.c_fc.bias", "mlp"),
        ("blk.7.ffn_gate_exps.weight", "experts"),
        ("blk.7.ffn_gate_inp.weight", "experts"),
        ("blk.7.ffn_up_shexp.weight", "mlp"),
        ("blk.0.attn_norm.weight", "norm"),
        ("token_embd.weight", "embedding"),
        ("output.weight", "lm_head"),
        ("output_norm.weight", "norm"),
        ("model.layers.1.mlp.experts.4.up_proj.qweight", "experts"),
        ("model.layers.1.mlp.gate.weight", "experts"),
        ("model.layers.1.mlp.shared_experts.up_proj.weight", "mlp"),
        ("backbone.layers.0.mixer.in_proj.weight", "attention"),
        ("vision_tower.vision_model.encoder.layers.0.layer_norm1.weight", "vision"),
        ("mtp.layers.0.mlp.up_proj.weight", "mtp"),
        ("gpt_neox.final_layer_norm.weight", "norm"),
        ("transformer.ln_f.weight", "norm"),
        ("something.else", "other"),
    ],
)
def test_a_name_alone(name: str, component: str) -> None:
    pattern = ".".join("{}" if part.isdigit() else part for part in name.split("."))
    assert classify(pattern).value == component


def test_names_without_wrappers() -> None:
    assert core("model.language_model.layers.{}.x.weight") == core("language_model.model.layers.{}.x.weight")
    assert core("model.visual.x") == core("visual.x") != core("x")
    assert core("bert.embeddings.LayerNorm.gamma") == "embeddings.LayerNorm.weight"
    assert core("model") == "model"


def test_masks_are_buffers_and_biases_are_not() -> None:
    assert is_buffer_name("h.{}.attn.bias", (1, 1, 1024, 1024))
    assert not is_buffer_name("h.{}.attn.c_attn.bias", (2304,))
    assert not is_buffer_name("patch_embed.bias", (1, 1, 1, 64))


def test_literal_numbers_of_the_inventory_meet_folded_names() -> None:
    inv = Inventory()
    inv.add("visual.merger.mlp.0.weight", (8, 8), Component.VISION)
    inv.add("visual.merger.mlp.2.weight", (4, 8), Component.VISION)
    group = TensorGroup("model.visual.merger.mlp.{}.weight", "BF16", (8, 8), ((range(1),),))
    (match,) = Matcher(inv.specs).assign(group.pattern, group.boxes)
    assert match.expected is not None
    assert match.expected.spec.shape == (8, 8)


def test_two_names_that_differ_in_their_wrapper_alone_stay_apart() -> None:
    inv = Inventory()
    inv.add("thinker.lm_head.weight", (4, 4), Component.LM_HEAD)
    inv.add("lm_head.weight", (2, 2), Component.LM_HEAD)
    matcher = Matcher(inv.specs)
    for pattern, shape in (("thinker.lm_head.weight", (4, 4)), ("lm_head.weight", (2, 2))):
        (match,) = matcher.assign(pattern, ((),))
        assert match.expected is not None
        assert match.expected.spec.shape == shape
    (match,) = matcher.assign("model.lm_head.weight", ((),))
    assert match.expected is None


INDICES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30, unique=True)


@given(INDICES, INDICES)
def test_box_arithmetic_is_set_arithmetic(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    a, b = (boxes_of([value for pair in pairs for value in pair], 2) for pairs in (left, right))
    shared, rest = intersect(a, b), subtract(a, b)

    def members(boxes: tuple[tuple[range, ...], ...]) -> set[tuple[int, int]]:
        return {(i, j) for outer, inner in boxes for i in outer for j in inner}

    assert members(shared) == set(left) & set(right)
    assert members(rest) == set(left) - set(right)
    assert count_boxes(shared) + count_boxes(rest) == len(left)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(1, 4))
def test_every_stored_element_is_counted_once(shape: list[int], layers: int) -> None:
    inv = Inventory()
    inv.each("model.layers.{}.mlp.w.weight", range(layers), tuple(shape), Component.MLP)
    model = replace(arch(), tensors=tuple(inv.specs))
    tensors = [(f"model.layers.{i}.mlp.w.weight", "BF16", tuple(shape)) for i in range(layers + 1)]
    report = count_parameters(model, checkpoint(tensors))
    assert report.total == (layers + 1) * prod(shape)
    assert report.weights_bytes == 2 * report.total
