"""Architectures written out by hand from published config.json facts, for tests of the memory stage alone."""

from __future__ import annotations

from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    DeltaNetState,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    Layer,
    Mamba2State,
    NoCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)


def build(
    model_type: str,
    layers: list[Layer],
    *,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    hidden_size: int = 4096,
    vocab_size: int = 32000,
    dtype: str = "BF16",
    max_position_embeddings: int | None = 1 << 20,
    architectures: tuple[str, ...] = (),
    intermediate_size: int | None = None,
) -> Architecture:
    return Architecture(
        family=model_type,
        model_type=model_type,
        architectures=architectures,
        dtype=dtype,
        hidden_size=hidden_size,
        num_hidden_layers=len([layer for layer in layers if layer.stack == "decoder"]),
        num_attention_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab_size,
        max_position_embeddings=max_position_embeddings,
        layers=tuple(layers),
        tensors=(),
        intermediate_size=intermediate_size,
    )


def one(cache: Cache, count: int) -> list[Layer]:
    return [Layer((cache,))] * count


def llama_3_8b() -> Architecture:
    return build("llama", one(FullAttention(32, 8, 128, 128), 32), heads=32, kv_heads=8, head_dim=128)


def mistral_7b() -> Architecture:
    return build("mistral", one(SlidingAttention(32, 8, 128, 128, 4096), 32), heads=32, kv_heads=8, head_dim=128)


def gemma_3_27b() -> Architecture:
    sliding, full = SlidingAttention(32, 16, 128, 128, 1024), FullAttention(32, 16, 128, 128)
    layers = [Layer((full if i % 6 == 5 else sliding,)) for i in range(62)]
    return build("gemma3", layers, heads=32, kv_heads=16, head_dim=128, hidden_size=5376)


def gpt_oss_120b() -> Architecture:
    sliding, full = SlidingAttention(64, 8, 64, 64, 128), FullAttention(64, 8, 64, 64)
    layers = [Layer((full if i % 2 else sliding,)) for i in range(36)]
    return build("gpt_oss", layers, heads=64, kv_heads=8, head_dim=64, hidden_size=2880)


def llama_4_scout() -> Architecture:
    chunked, full = ChunkedAttention(40, 8, 128, 128, 8192), FullAttention(40, 8, 128, 128)
    layers = [Layer((full if i % 4 == 3 else chunked,)) for i in range(48)]
    return build("llama4", layers, heads=40, kv_heads=8, head_dim=128, hidden_size=5120)


def deepseek_v3() -> Architecture:
    return build(
        "deepseek_v3", one(LatentAttention(128, 512, 64, 128, 128), 61), heads=128, kv_heads=128, hidden_size=7168
    )


def deepseek_v32() -> Architecture:
    layer = SparseLatentAttention(128, 512, 64, 128, 128, 128, 2048)
    return build("deepseek_v32", one(layer, 61), heads=128, kv_heads=128, hidden_size=7168)


def qwen3_next() -> Architecture:
    linear, full = DeltaNetState(16, 32, 128, 128, 4), FullAttention(16, 2, 256, 256)
    layers = [Layer((full if i % 4 == 3 else linear,)) for i in range(48)]
    return build("qwen3_next", layers, heads=16, kv_heads=2, head_dim=256, hidden_size=2048)


def qwen3_5_27b() -> Architecture:
    linear, full = DeltaNetState(16, 48, 128, 128, 4, "F32"), FullAttention(24, 4, 256, 256)
    layers = [Layer((full if i % 4 == 3 else linear,)) for i in range(64)]
    return build("qwen3_5", layers, heads=24, kv_heads=4, head_dim=256, hidden_size=5120)


def lfm2() -> Architecture:
    conv, full = ShortConvState(2048, 3), FullAttention(32, 8, 64, 64)
    layers = [Layer((full if i in (2, 5, 8, 10, 12, 14) else conv,)) for i in range(16)]
    return build("lfm2", layers, heads=32, kv_heads=8, head_dim=64, hidden_size=2048)


def nemotron_3_nano() -> Architecture:
    """52 blocks: 23 Mamba 2, 6 attention, 23 feed-forward."""
    pattern = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
    kinds = {
        "M": Mamba2State(64, 64, 128, 8, 4, "F32"),
        "*": FullAttention(32, 2, 128, 128),
        "E": NoCache("feed-forward"),
    }
    layers = [Layer((kinds[letter],)) for letter in pattern]
    return build("nemotron_h", layers, heads=32, kv_heads=2, head_dim=128, hidden_size=2688)


def falcon_40b() -> Architecture:
    return build("falcon", one(FullAttention(128, 8, 64, 64), 60), heads=128, kv_heads=8, head_dim=64, hidden_size=8192)


def whisper_large_v3() -> Architecture:
    encoder = Layer((NoCache("encoder"),), "encoder")
    decoder = Layer((FullAttention(20, 20, 64, 64), CrossAttention(20, 20, 64, 1500)))
    return build("whisper", [encoder] * 32 + [decoder] * 32, heads=20, kv_heads=20, head_dim=64, hidden_size=1280)


def deepseek_v4_flash() -> Architecture:
    """43 layers: two of the window alone, then ratios 4 and 128 in turn."""

    def layer(index: int) -> Layer:
        if index < 2:
            return Layer((CompressedAttention(64, 512, 128, 0),))
        if index % 2 == 0:
            return Layer((CompressedAttention(64, 512, 128, 4, 128, True),))
        return Layer((CompressedAttention(64, 512, 128, 128),))

    layers = [layer(index) for index in range(43)]
    return build("deepseek_v4", layers, heads=64, kv_heads=1, head_dim=512, hidden_size=4096)


def minimax_m3() -> Architecture:
    """60 layers, the last 57 with an indexer."""
    dense, sparse = FullAttention(64, 4, 128, 128), IndexedAttention(64, 4, 128, 128, 128)
    return build("minimax_m3_vl", one(dense, 3) + one(sparse, 57), heads=64, kv_heads=4, head_dim=128)
