"""Config against stored tensors: each way to disagree has its code, and what files do on purpose is no contradiction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfmem.checkpoint.grouping import group_tensors
from hfmem.checkpoint.index import Index
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.model.architecture import Architecture, Note
from hfmem.model.crosscheck import CONTRADICTIONS, check, check_names, contradictions
from hfmem.model.expected import index_names
from hfmem.model.families.registry import read_architecture
from hfmem.model.inventory import Component, Inventory
from hfmem.model.parameters import count_parameters

Tensor = tuple[str, str, tuple[int, ...]]
LAYERS, HIDDEN, HEADS, KV, DIM, FF, VOCAB = 3, 64, 4, 2, 16, 96, 320
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "intermediate_size": FF,
    "vocab_size": VOCAB,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def tensors(layers: int = LAYERS, kv: int = KV, ff: int = FF, vocab: int = VOCAB, hidden: int = HIDDEN) -> list[Tensor]:
    out: list[Tensor] = [("model.embed_tokens.weight", "BF16", (vocab, hidden))]
    for i in range(layers):
        at = f"model.layers.{i}"
        out += [
            (f"{at}.self_attn.q_proj.weight", "BF16", (HEADS * DIM, hidden)),
            (f"{at}.self_attn.k_proj.weight", "BF16", (kv * DIM, hidden)),
            (f"{at}.self_attn.v_proj.weight", "BF16", (kv * DIM, hidden)),
            (f"{at}.self_attn.o_proj.weight", "BF16", (hidden, HEADS * DIM)),
            (f"{at}.mlp.gate_proj.weight", "BF16", (ff, hidden)),
            (f"{at}.mlp.up_proj.weight", "BF16", (ff, hidden)),
            (f"{at}.mlp.down_proj.weight", "BF16", (hidden, ff)),
            (f"{at}.input_layernorm.weight", "BF16", (hidden,)),
            (f"{at}.post_attention_layernorm.weight", "BF16", (hidden,)),
        ]
    return [*out, ("model.norm.weight", "BF16", (hidden,)), ("lm_head.weight", "BF16", (vocab, hidden))]


def stored(found: list[Tensor]) -> Checkpoint:
    return Checkpoint(group_tensors(found), "safetensors", 1, None)


def arch(**changes: object) -> Architecture:
    return read_architecture(CONFIG | changes)


def notes(found: list[Tensor], **changes: object) -> dict[str, str]:
    made = check(arch(**changes), stored(found))
    assert len({note.code for note in made}) == len(made) or {note.code for note in made} == {"layout_differs"}
    return {note.code: note.message for note in made}


def without(*names: str) -> list[Tensor]:
    return [tensor for tensor in tensors() if not any(name in tensor[0] for name in names)]


def test_agreement_says_nothing() -> None:
    assert notes(tensors()) == {}


@pytest.mark.parametrize(
    ("found", "code", "says"),
    [
        (tensors(kv=4), "kv_heads_mismatch", "2 KV heads × 16 mean 32 rows, 64 (4 × 16) are stored"),
        (tensors(kv=1), "kv_heads_mismatch", "2 KV heads × 16 mean 32 rows, 16 (1 × 16) are stored"),
        (tensors(layers=5), "layers_mismatch", "num_hidden_layers is 3, 3 are expected, and the files hold 5 layers (0–4)"),
        (tensors(layers=2), "layers_mismatch", "the files hold 2 layers (0, 1)"),
        # a number that no list could be made up to
        (
            [*tensors(), ("model.layers.99999999999.mlp.up_proj.weight", "BF16", (FF, HIDDEN))],
            "layers_mismatch",
            "the files hold 4 layers (0, 1, 2, 99999999999)",
        ),
        (tensors(vocab=384), "vocab_mismatch", "vocab_size means 320 rows, 384 are stored"),
        (tensors(ff=128), "intermediate_mismatch", "[96, 64] is expected, [128, 64] stored"),
        (tensors(hidden=128), "hidden_mismatch", "hidden_size is 64"),
        (without("layers.1.mlp.up_proj"), "missing_tensors", "1 tensors that the files do not hold"),
        (without("lm_head"), "missing_tensors", "lm_head.weight × 1"),
        ([*tensors(), ("model.layers.0.self_attn.q_proj.bias", "BF16", (64,))], "unexpected_tensors", "q_proj.bias × 1"),
        ([*tensors(), ("model.extra.weight", "BF16", (2, 2))], "unexpected_tensors", "model.extra.weight × 1"),
        ([(n, "F32", s) for n, _, s in tensors()], "dtype_mismatch", "config.json says bf16 and the files store f32"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value and " " not in value else "",
)  # fmt: skip
def test_contradictions(found: list[Tensor], code: str, says: str) -> None:
    told = notes(found)
    assert set(told) == {code}
    assert code in CONTRADICTIONS
    assert says in told[code]


def test_more_query_heads_than_the_config_says() -> None:
    found = [(n, d, (128, 64) if "q_proj" in n else s) for n, d, s in tensors()]
    assert set(notes(found)) == {"heads_mismatch"}


def test_a_whole_layer_too_many_is_one_note_not_three() -> None:
    assert set(notes(tensors(layers=4), num_hidden_layers=3)) == {"layers_mismatch"}


@pytest.mark.parametrize(
    ("found", "changes", "code"),
    [
        (tensors(), {"tie_word_embeddings": True}, "tied_stored"),
        ([(n, "F16", s) for n, _, s in tensors()], {}, "dtype_differs"),
        ([*without("lm_head"), ("score.weight", "BF16", (2, 64))], {}, "task_head"),
    ],
    ids=["tied head stored", "same width", "classifier"],
)
def test_what_files_do_for_a_reason(found: list[Tensor], changes: dict[str, object], code: str) -> None:
    made = check(arch(**changes), stored(found))
    assert code in {note.code for note in made}
    assert contradictions(made) == ()


def test_a_class_without_a_head_needs_none() -> None:
    made = check(replace(arch(), architectures=("LlamaModel",)), stored(without("lm_head")))
    assert [note.code for note in made] == ["head_missing"]
    assert contradictions(made) == ()


def test_a_tied_head_may_be_left_out_and_buffers_stored() -> None:
    found = [*without("lm_head"), ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (8,))]
    assert notes(found, tie_word_embeddings=True) == {}


def test_a_config_without_dtype_contradicts_no_file() -> None:
    silent = read_architecture({key: value for key, value in CONFIG.items() if key != "torch_dtype"})
    assert check(silent, stored(tensors())) == ()


def test_dimensions_of_one_change_nothing() -> None:
    wide = [(name, dtype, (1, 1, *shape) if name == "model.norm.weight" else shape) for name, dtype, shape in tensors()]
    assert notes(wide) == {}
    assert "shape_mismatch" in notes([(n, d, (2, *s) if n == "model.norm.weight" else s) for n, d, s in tensors()])


@pytest.mark.parametrize(("packed", "code"), [("proj", ""), ("up_proj", "dtype_differs")])
def test_floats_left_in_a_packed_model_say_nothing_of_its_dtype(packed: str, code: str) -> None:
    """All projections in 8 bits are 92,160 bytes beside 82,816 of floats; one of seven is 18,432 beside many more."""
    found = [(name, "F8_E4M3" if packed in name else "F16", shape) for name, _, shape in tensors()]
    assert [note for note in notes(found) if "dtype" in note] == ([code] if code else [])


def test_fused_projections_are_another_layout() -> None:
    found = [tensor for tensor in tensors() if not any(f".{x}_proj" in tensor[0] for x in "qkv")]
    found += [
        (f"model.layers.{i}.self_attn.qkv_proj.weight", "BF16", (HEADS * DIM + 2 * KV * DIM, HIDDEN)) for i in range(3)
    ]
    assert set(notes(found)) == {"layout_differs"}
    found[-1] = (found[-1][0], "BF16", (HEADS * DIM + KV * DIM, HIDDEN))
    assert set(notes(found)) == {"missing_tensors", "unexpected_tensors"}


def test_packed_weights_are_compared_by_what_they_stand_for() -> None:
    def gptq(inputs: int) -> list[Tensor]:
        found = [tensor for tensor in tensors() if "down_proj" not in tensor[0]]
        for i in range(LAYERS):
            at = f"model.layers.{i}.mlp.down_proj"
            found += [
                (f"{at}.qweight", "I32", (inputs // 8, HIDDEN)),
                (f"{at}.qzeros", "I32", (inputs // 32, HIDDEN // 8)),
                (f"{at}.scales", "F16", (inputs // 32, HIDDEN)),
                (f"{at}.g_idx", "I32", (inputs,)),
                (f"{at}.bias", "F16", (HIDDEN,)),
            ]
        return found

    assert notes(gptq(FF)) == {}
    assert set(notes(gptq(2 * FF))) == {"intermediate_mismatch"}


def multimodal(keep_tower: bool) -> tuple[Architecture, Checkpoint]:
    inv = Inventory(list(arch().tensors))
    inv.each("visual.blocks.{}.attn.qkv.weight", range(2), (12, 4), Component.VISION)
    tower: list[Tensor] = [(f"visual.blocks.{i}.attn.qkv.weight", "BF16", (12, 4)) for i in range(2)]
    return replace(arch(), tensors=tuple(inv.specs)), stored(tensors() + (tower if keep_tower else []))


def test_a_text_only_copy_of_a_multimodal_model() -> None:
    assert check(*multimodal(True)) == ()
    made = check(*multimodal(False))
    assert [note.code for note in made] == ["towers_missing"]
    assert contradictions(made) == ()


def test_stacked_experts_lie_either_way_round_and_matrices_do_not() -> None:
    inv = Inventory(list(arch().tensors))
    inv.each("model.layers.{}.mlp.experts.gate_up_proj", range(LAYERS), (4, HIDDEN, 24), Component.EXPERTS)
    mixed = replace(arch(), tensors=tuple(inv.specs))

    def codes(experts: tuple[int, ...], **changes: int) -> list[str]:
        stacks = [(f"model.layers.{i}.mlp.experts.gate_up_proj", "BF16", experts) for i in range(LAYERS)]
        return [note.code for note in check(mixed, stored([*tensors(**changes), *stacks]))]

    assert codes((4, HIDDEN, 24)) == codes((4, 24, HIDDEN)) == []
    assert codes((4, 25, HIDDEN)) != []
    turned = [(n, d, s[::-1] if "up_proj" in n else s) for n, d, s in tensors()]
    assert [note.code for note in check(arch(), stored(turned))] == ["hidden_mismatch"]


def test_undeclared_prediction_layers_are_named() -> None:
    found: list[Tensor] = [
        *tensors(),
        *((n.replace("layers.0", "layers.3"), d, s) for n, d, s in tensors() if "layers.0" in n),
    ]
    found.append(("model.layers.3.eh_proj.weight", "BF16", (64, 128)))
    made = check(arch(), stored(found))
    assert [note.code for note in made] == ["mtp_undeclared"]


def test_names_alone() -> None:
    def told(change: Callable[[str], str | None]) -> tuple[Note, ...]:
        names = [new for name, _, _ in tensors() if (new := change(name)) is not None]
        return check_names(arch(), index_names(Index("index", dict.fromkeys(names, "model.safetensors"), None, None)))

    assert told(lambda name: name) == ()
    assert told(lambda name: f"language_model.{name}") == ()
    assert [n.code for n in told(lambda name: None if ".layers.2." in name else name)] == ["layers_mismatch"]
    assert [n.code for n in told(lambda name: None if "layers.1.mlp.up" in name else name)] == ["missing_tensors"]
    assert told(lambda name: name.replace("down_proj.weight", "down_proj.qweight")) == ()


def test_a_model_without_inventory_is_not_checked() -> None:
    assert check(replace(arch(), tensors=()), stored(tensors())) == ()


def test_gguf_names_are_not_compared() -> None:
    found = Checkpoint(group_tensors([("blk.0.attn_q.weight", "Q4_K", (256, 256))]), "gguf", 1, None)
    assert check(arch(), found) == ()


PARTS = st.sampled_from(
    [
        "model",
        "layers",
        "0",
        "1",
        "7",
        "self_attn",
        "mlp",
        "q_proj",
        "up_proj",
        "experts",
        "weight",
        "bias",
        "qweight",
        "lm_head",
    ]
)
STORED = st.lists(
    st.tuples(
        st.lists(PARTS, min_size=1, max_size=7).map(".".join),
        st.sampled_from(["BF16", "F32", "I32", "U8", "F8_E4M3", "BOOL"]),
        st.lists(st.integers(1, 8), max_size=3).map(tuple),
    ),
    max_size=12,
    unique_by=lambda tensor: tensor[0],
)


@given(STORED)
def test_any_tensors_are_compared_and_counted(found: list[Tensor]) -> None:
    model, files = arch(), stored(found)
    made = check(model, files)
    assert contradictions(made) or not found or made == () or {n.code for n in made} <= {"layout_differs", "task_head"}
    report = count_parameters(model, files)
    assert sum(report.by_component.values()) == report.total
    assert 0 <= report.active <= report.total
    assert sum(report.weights_by_component.values()) == sum(report.weights_by_dtype.values()) == files.total_bytes
