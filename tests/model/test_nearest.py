"""Unknown models are refused with the nearest family and the keys that differ; `--assume` goes on and says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfmem.errors import HfmemError, UnknownArchitectureError, UsageError
from hfmem.model.families.registry import FAMILIES, read_architecture, rule
from hfmem.model.nearest import class_family, nearest_family

PLAIN = {
    "architectures": ["FooForCausalLM"],
    "model_type": "foo9",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
}


def refusal(config: dict[str, object]) -> str:
    with pytest.raises(UnknownArchitectureError) as caught:
        read_architecture(config)
    return caught.value.message


def test_the_message_names_family_and_keys() -> None:
    assert refusal(PLAIN | {"attn_mix": 3, "kv_slots": 2}) == (
        'config.json: model_type "foo9" is not known; nearest: llama (differs in: attn_mix, kv_slots). --assume llama to go on'
    )


@pytest.mark.parametrize(
    ("extra", "family"),
    [
        ({}, "llama"),
        ({"sliding_window": 4096}, "mistral"),
        ({"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "n_routed_experts": 256}, "deepseek_v3"),
        ({"model_type": "qwen3_turbo"}, "qwen3"),
        ({"block_configs": []}, "nemotron-nas"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "gemma2"),
    ],
)
def test_the_nearest(extra: dict[str, object], family: str) -> None:
    assert f"nearest: {family} " in refusal(PLAIN | extra)


def test_families_whose_code_is_in_their_repos_are_candidates() -> None:
    config = {
        "model_type": "chatty",
        "num_layers": 28,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "kv_channels": 128,
    }
    more = {"multi_query_attention": True, "multi_query_group_num": 2, "padded_vocab_size": 65024, "mixture": 3}
    assert "nearest: chatglm (differs in: mixture)" in refusal(config | more)


def test_what_old_configs_all_hold_is_no_difference() -> None:
    settings = {
        "num_beams": 1,
        "temperature": 1.0,
        "bad_words_ids": None,
        "output_scores": False,
        "id2label": {"0": "A"},
    }
    assert refusal(PLAIN | settings) == refusal(PLAIN)
    assert "nearest: llama (same keys)" in refusal(PLAIN)


def test_a_key_of_every_transformer_that_is_missing_is_named() -> None:
    config = {key: value for key, value in PLAIN.items() if key != "num_attention_heads"}
    assert "no num_attention_heads" in refusal(config)


def test_what_is_no_transformer_has_no_nearest() -> None:
    assert refusal({"model_type": "foo9", "colour": 3}) == 'config.json: model_type "foo9" is not known'
    assert "neither 'model_type' nor 'architectures'" in refusal({"colour": 3})


def test_assuming_a_family_is_noted() -> None:
    arch = read_architecture(PLAIN | {"attn_mix": 3}, assume="llama")
    assert arch.assumed == "llama"
    assert arch.expected_parameters() == read_architecture(PLAIN | {"model_type": "llama"}).expected_parameters()
    (note,) = (note for note in arch.notes if note.code == "assumed_architecture")
    assert note.message == (
        'config.json: model_type "foo9" is read as llama, as told (--assume); keys without a meaning there: attn_mix'
    )


def test_assuming_what_it_is_changes_nothing() -> None:
    config = PLAIN | {"model_type": "llama"}
    assert read_architecture(config, assume="llama") == read_architecture(config)


def test_assuming_an_unknown_family_suggests_one() -> None:
    with pytest.raises(UsageError, match=r"--assume lama: no such architecture \(did you mean llama\?\)"):
        read_architecture(PLAIN, assume="lama")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("LlamaForCausalLM", "llama"),
        ("GPTNeoXForCausalLM", "gpt_neox"),
        ("Qwen2Model", "qwen2"),
        ("FooBar", None),
        (3, None),
    ],
)
def test_a_class_names_its_family(name: object, family: str | None) -> None:
    assert class_family({"architectures": [name]}, FAMILIES) == family


def test_a_config_without_model_type_goes_by_its_class() -> None:
    config = {key: value for key, value in PLAIN.items() if key != "model_type"} | {
        "architectures": ["Qwen2ForCausalLM"]
    }
    assert read_architecture(config).family == "qwen2"


def test_every_registered_rule_exists() -> None:
    assert all(callable(rule(model_type)) for model_type in FAMILIES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**6) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*PLAIN, "text_config", "layer_types", "head_dim", "sliding_window", "tie_word_embeddings"])


@given(st.dictionaries(KEYS, JSON, max_size=8))
def test_any_config_gives_facts_or_one_line(config: dict[str, object]) -> None:
    nearest_family(config, "foo", FAMILIES)
    for assume in (None, "llama", "qwen2"):
        try:
            read_architecture(config, assume=assume)
        except HfmemError as error:
            assert error.message
            assert "\n" not in error.message


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_local_experts"])
def test_an_absurd_count_is_refused_at_once(key: str) -> None:
    config = PLAIN | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2} | {key: 1 << 39}
    with pytest.raises(HfmemError, match=rf"'{key}' is 549,755,813,888, beyond any real model"):
        read_architecture(config)


@pytest.mark.parametrize(
    ("part", "given"),
    [
        ({"torch_dtype": "float16"}, True),
        ({"dtype": "bfloat16"}, True),
        ({"torch_dtype": None}, False),
        ({"torch_dtype": "auto"}, False),
        ({"text_config": {"dtype": "bfloat16"}}, True),
        ({"vision_config": {"dtype": "bfloat16"}}, False),
    ],
)
def test_whether_a_config_names_its_dtype(part: dict[str, object], given: bool) -> None:
    config = {key: value for key, value in PLAIN.items() if key != "torch_dtype"} | {"model_type": "llama"} | part
    assert read_architecture(config).dtype_given is given
