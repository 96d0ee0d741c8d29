"""transformers' continuous batching with the paged kernel, against its own eager attention, on a tiny random model."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from hfmem_kernels import transformers_adapter
from hfmem_kernels.transformers_adapter import page_table_of, paged_decode

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra dev)")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:transformers.*"),
]

PROMPTS = [[5, 9, 2, 7, 1], [11, 3, 3, 8, 60, 2, 14, 9, 21, 33, 40, 2, 5, 17, 19, 23, 29, 31], [4]]


def tiny_model(implementation: str, device: str) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128, bos_token_id=0, eos_token_id=63, pad_token_id=62,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(device).eval()
    model.set_attn_implementation(implementation)
    return model


def generate(model: Any, tokens: int = 5) -> list[tuple[list[int], list[float]]]:
    """Greedy tokens and their log-probabilities for each prompt."""
    generation = transformers.GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=62)
    batching = transformers.ContinuousBatchingConfig(
        page_size=16, num_blocks=64, max_batch_tokens=64, auto_switch_to_flash=False, use_cuda_graph=False,
        return_logprobs=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = model.generate_batch(
            PROMPTS, generation_config=generation, continuous_batching_config=batching, warmup=False
        )
    ordered = [outputs[name] for name in sorted(outputs, key=lambda n: int(str(n).split("_")[-1]))]
    return [(list(o.generated_tokens), list(o.logprobs)) for o in ordered]


def test_decodes_as_eager_does(device: str) -> None:
    expected = generate(tiny_model("eager", device))
    with paged_decode() as calls:
        given = generate(tiny_model("sdpa", device))
    assert [g[0] for g in given] == [e[0] for e in expected]
    for (_, one), (_, other) in zip(given, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert calls.decoded >= 2 * 4, "two layers, four steps after the prefill"
    assert calls.passed_on >= 2, "the prefill is not ours"


def test_sliding_layers_stay_with_transformers(device: str) -> None:
    """A model whose layers alternate: only the full-attention one is ours, and the result is eager's."""

    def model(implementation: str) -> Any:
        torch.manual_seed(0)
        config = transformers.Qwen2Config(
            vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128, use_sliding_window=True, sliding_window=8,
            layer_types=["sliding_attention", "full_attention"], bos_token_id=0, eos_token_id=63, pad_token_id=62,
        )  # fmt: skip
        built = transformers.Qwen2ForCausalLM(config).to(device).eval()
        built.set_attn_implementation(implementation)
        return built

    expected = generate(model("eager"), tokens=3)
    with paged_decode() as calls:
        given = generate(model("sdpa"), tokens=3)
    assert [g[0] for g in given] == [e[0] for e in expected]
    assert calls.decoded == 2 and calls.passed_on >= 2 + 2


def test_nothing_is_left_behind(device: str) -> None:
    from transformers.generation.continuous_batching.cache import PagedAttentionCache
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS["sdpa"], PagedAttentionCache.update
    model = tiny_model("sdpa", device)
    tokens = torch.tensor([PROMPTS[0]], device=device)
    plain = model(tokens).logits
    with pytest.raises(RuntimeError, match="on purpose"), paged_decode() as calls:
        assert torch.equal(model(tokens).logits, plain)
        assert calls.decoded == 0 and calls.passed_on == 2
        raise RuntimeError("on purpose")
    assert (ALL_ATTENTION_FUNCTIONS["sdpa"], PagedAttentionCache.update) == before


def test_page_table_of_index_lists() -> None:
    """Three sequences of 5, 0 and 4 tokens on pages of 4: pages 7 and 2, none, page 9."""
    slots = [28, 29, 30, 31, 8, 36, 37, 38, 39]
    table = page_table_of(torch.tensor(slots), torch.tensor([0, 5, 5, 9]), 3, 4)
    assert table.dtype == torch.int32
    assert table.tolist() == [[7, 2, -1], [-1, -1, -1], [9, -1, -1]]


@pytest.mark.parametrize("paged", [True, False], ids=["block_table", "index_lists"])
def test_one_layer_by_hand(paged: bool) -> None:
    """A cache with one page in use: the new token is written behind the two old ones, and all three are attended to."""

    class Allocator:
        index, layer_type, supports_block_table = 0, "full_attention", True
        k, v = torch.zeros(4, 4, 1, 8), torch.zeros(4, 4, 1, 8)

        def get_cache_for_block_table(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.k, self.v

    allocator = Allocator()
    torch.manual_seed(0)
    allocator.k[2, :2], allocator.v[2, :2] = torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    query, key, value = torch.randn(1, 2, 1, 8), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)
    kwargs: dict[str, Any] = {
        "max_length_q": 1, "cu_seq_lens_q": torch.tensor([0, 1]), "scaling": 0.5,
        "cu_seq_lens_k": {"full_attention": torch.tensor([0, 3])}, "max_length_k": {"full_attention": 3},
        "read_index": [torch.tensor([8, 9, 10])], "write_index": [torch.tensor([10])],
        "block_table": torch.tensor([[[2, -1]]], dtype=torch.int32) if paged else None,
    }  # fmt: skip
    assert transformers_adapter.decodable(allocator, kwargs)
    step = transformers_adapter.written(allocator, key, value, 0, kwargs, "reference")
    out = transformers_adapter.attended(step, query, kwargs, "reference")
    assert torch.equal(allocator.k[2, 2], key[0, 0]) and torch.equal(allocator.v[2, 2], value[0, 0])
    weights = torch.softmax(query[0, :, 0] @ allocator.k[2, :3, 0].T * 0.5, dim=-1)
    torch.testing.assert_close(out[0, 0], weights @ allocator.v[2, :3, 0])
