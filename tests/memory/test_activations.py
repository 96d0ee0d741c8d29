"""The widest place of a block, for each kind of attention: elements of q, k, v and the output, multiplied out by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from example_architectures import build, one

from hfmem.api.reading import read_model
from hfmem.hub import FetchOptions
from hfmem.memory.activations import Sampler, forward_bytes, peak
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.expert_workspaces import ExpertFormat, keeps_workspaces, workspace_bytes
from hfmem.memory.runtime import estimate_runtime
from hfmem.memory.serving import Serving
from hfmem.model.layers import Cache, CompressedAttention, FullAttention, LatentAttention, SlidingAttention
from hfmem.units import format_bytes

TOKENS, HIDDEN, INNER = 1024, 2048, 64


@pytest.mark.parametrize(
    ("cache", "width"),
    [
        # Llama 3 8B's heads: q and its output 32 × 128 each, k and v 8 × 128 each
        (FullAttention(32, 8, 128, 128), 2 * 32 * 128 + 2 * 8 * 128),
        # keys wider than values (MiMo V2): q and k of 192, v and output of 128
        (FullAttention(64, 4, 192, 128), 64 * (192 + 128) + 4 * (192 + 128)),
        (SlidingAttention(16, 8, 256, 256, window=1024), 2 * 16 * 256 + 2 * 8 * 256),
        # DeepSeek V2 Lite expands the latent: every head has its own q and k of 128 + 64, v and output of 128
        (LatentAttention(16, 512, 64, 128, 128), 2 * 16 * (128 + 64) + 2 * 16 * 128),
        # DeepSeek V4: one row serves as k and v of all heads; q and output 64 × 512 each
        (CompressedAttention(64, 512, 128, 4, 128, True), 2 * 64 * 512),
    ],
)
@pytest.mark.parametrize("tp", [1, 2])
def test_attention_where_it_is_wider_than_the_feed_forward(cache: Cache, width: int, tp: int) -> None:
    arch = replace(build("x", one(cache, 2), hidden_size=HIDDEN), intermediate_size=INNER)
    assert forward_bytes(arch, TOKENS, tp) == TOKENS * (2 * HIDDEN + width // tp) * 2


def test_a_feed_forward_without_a_width_is_four_hidden_sizes_wide() -> None:
    """GPT-2's `n_inner: null`: gate, up and product are reckoned at 4 × hidden each, the upper end for one without a gate.

    Beside them lie attention's output, the residual before and after it, and the normed input; two of them where ranks add up.
    """
    arch = replace(build("x", one(FullAttention(4, 4, 16, 16), 2), hidden_size=HIDDEN), intermediate_size=None)
    assert forward_bytes(arch, TOKENS, 1) == TOKENS * (4 * HIDDEN + 3 * 4 * HIDDEN) * 2
    assert forward_bytes(arch, TOKENS, 2) == TOKENS * (2 * HIDDEN + 3 * 4 * HIDDEN // 2) * 2


MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
QWEN3_VL = {
    "model_type": "qwen3_vl_moe_text",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "head_dim": 128,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "torch_dtype": "bfloat16",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
}


@pytest.mark.parametrize(
    ("config", "tp", "token"),
    [
        # wider than the hidden states: gate and up of 2 × 7168 on each of two ranks, and their product of 7168; two experts a token
        (MIXTRAL, 2, 2 * (2 * 7168 + 7168)),
        (MIXTRAL, 1, 2 * (2 * 14336 + 14336)),
        # gate and up stacked in one matrix of 1536 columns; both workspaces are as wide as the hidden states
        (QWEN3_VL, 1, 8 * (2048 + 2048)),
    ],
)
def test_workspaces_of_chosen_experts(config: dict[str, object], tp: int, token: int, tmp_path: Path) -> None:
    """vLLM's modular kernel: `max(2 · inner, hidden)` and `max(inner, hidden)` for each expert that a token takes.

    A Mixtral-8x7B at TP 2 logs a peak of 1.21 GiB (vLLM 0.19, H100, 8192 tokens): 672 MiB of it are these.
    """
    (tmp_path / "config.json").write_text(json.dumps(config))
    arch = read_model(str(tmp_path), fetch=FetchOptions(offline=True)).architecture
    assert workspace_bytes(arch, TOKENS, tp) == TOKENS * token * 2


def test_experts_took_a_step_in_chunks(tmp_path: Path) -> None:
    """`VLLM_FUSED_MOE_CHUNK_SIZE` is in the wheel of 0.17.1 and in none from 0.18.0 on: then 65,536 tokens take twice as much."""
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_VL))
    arch = read_model(str(tmp_path), fetch=FetchOptions(offline=True)).architecture
    serving = Serving(8192, engine="vllm", max_num_batched_tokens=65536)
    peaks = [estimate_runtime(arch, serving, release=Release(n))["activations_bytes"].bytes for n in (17, 18)]
    assert peaks[1] - peaks[0] == 32768 * 8 * (2048 + 2048) * 2
    small = replace(serving, max_num_batched_tokens=32768)
    peaks = [estimate_runtime(arch, small, release=Release(n))["activations_bytes"].bytes for n in (17, 18)]
    assert peaks[1] == peaks[0]


@pytest.mark.parametrize(
    ("experts", "capability", "minor", "ep", "stay"),
    [
        ("plain", 90, 19, False, True),
        ("plain", 90, 13, False, False),  # before `v1/worker/workspace.py`
        # FlashInfer's TensorRT-LLM kernels allocate for themselves; Marlin's, for integers, ask
        ("plain", 100, 33, False, False),
        ("fp8_blocks", 103, 20, False, False),
        ("fp4", 100, 33, False, False),
        ("int4", 100, 33, False, True),
        ("plain", 100, 19, False, True),
        ("plain", 120, 33, False, True),
        # Hopper runs fp8 blocks in Triton, and in FlashInfer's CUTLASS kernels where experts are dealt out
        ("fp8_blocks", 90, 33, False, True),
        ("fp8_blocks", 90, 33, True, False),
        ("fp8_blocks", 90, 16, True, True),
        ("plain", 90, 33, True, True),
    ],
)
def test_whose_workspaces_stay(experts: ExpertFormat, capability: int, minor: int, ep: bool, stay: bool) -> None:
    """`_get_priority_backends` of the oracles for each format, and `workspace_shapes` of the experts that they name first."""
    arch = build("x", one(FullAttention(4, 4, 16, 16), 2))
    serving = Serving(8192, tp=2, ep=ep, compute_capability=capability)
    assert keeps_workspaces(arch, serving, Release(minor), experts) is stay


def test_what_is_said_of_the_peak_adds_up() -> None:
    """1,024 × 128,256 logits of 6 bytes are 788 M; beside them hidden states of 8,192 tokens and of the last of each sequence,
    twice, 132 rows of masked logits, and cuBLAS's 32 MiB."""
    arch = replace(
        build("llama", one(FullAttention(32, 8, 128, 128), 32), hidden_size=4096),
        vocab_size=128256,
        intermediate_size=14336,
    )
    sampler = Sampler(6, masks=True)
    found = peak(arch, tokens=8192, seqs=1024, tp=8, sampler=sampler)
    logits = 1024 * 128256 * 6
    rest = 8192 * 4096 * 2 + 2 * 1024 * 4096 * 2 + 132 * 128256 * 4 + (32 << 20)
    assert found.bytes == logits + rest
    words = "sampling: 1,024 sequences × 128,256 logits × 6 B"
    assert found.source == f"{words}, {format_bytes(rest)} of hidden states and masks"
