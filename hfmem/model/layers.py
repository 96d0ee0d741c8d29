"""The closed set of things a layer keeps between tokens. Each is one frozen dataclass; engines `match` over the union.

A new kind of cache is one dataclass here, added to `Cache`; the type checker then lists every place that must learn it: a `match`
over all kinds ends in `assert_never`, or in `assert_type` with the kinds that are left (`RecurrentCache`, `NoTokens`). Fields are
facts of the model, never of an engine: no pages, no replication, no rounding.

Shapes are per sequence. Tokens are counted by the caller; `window` and `chunk` are in tokens.
"""

from __future__ import annotations

from hfmem.records import dataclass


@dataclass(frozen=True, slots=True)
class FullAttention:
    """Keys and values of every token: MHA, GQA and MQA alike. K is `[tokens, num_kv_heads, head_dim]`, V has `v_head_dim`."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True)
class SlidingAttention:
    """As `FullAttention`, but a token sees itself and the `window - 1` tokens before it."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int


@dataclass(frozen=True, slots=True)
class ChunkedAttention:
    """As `FullAttention` within aligned chunks of `chunk` tokens (Llama 4): a token sees its own chunk's beginning, no further."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    chunk: int


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek V2): one row of `kv_lora_rank + qk_rope_head_dim` a token, shared by all heads.

    `qk_nope_head_dim` and `v_head_dim` are what the latent expands to; they shape weights, not the cache.
    """

    num_heads: int
    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True)
class SparseLatentAttention:
    """Latent attention that reads `index_topk` tokens picked by an indexer (DeepSeek V3.2, GLM 5).

    A layer with its own indexer keeps one key of `index_head_dim` a token beside the latent row; a layer that reuses another
    layer's choice has `has_indexer` False and keeps none. `index_pool`: tokens whose keys a serving engine pools into one (GLM-5
    Next, whose `index_head_dim` has the key, its score and a mark).
    """

    num_heads: int
    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    index_head_dim: int
    index_topk: int
    has_indexer: bool = True
    index_pool: int = 1


@dataclass(frozen=True, slots=True)
class IndexedAttention:
    """As `FullAttention`, reading the blocks an indexer picks: one more key of `index_head_dim` a token (MiniMax M3).

    A query looks at `index_topk` tokens at most, in blocks of `index_block`; None: the config does not say how many.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    index_head_dim: int
    index_topk: int | None = None
    index_block: int = 1


@dataclass(frozen=True, slots=True)
class CompressedAttention:
    """Window and compressed rows (DeepSeek V4): the last `window` tokens as one row of `head_dim` each (K and V are the same row),
    and one such row for every `ratio` tokens. `ratio` 0: the window alone.

    With an indexer each compressed row has a key of `index_head_dim` beside it. A compressor pools `ratio` tokens, with `overlap`
    the group before as well: its projections (values and gates) of the unfinished group, and of the overlapped one, are kept.
    `keys_from_rows`: the indexer's keys are made of the compressed rows, so that nothing waits for them apart (DeepSeek V4.1).
    `index_topk`: compressed rows that a query looks at, at most; None: all of them, or not known.
    """

    num_heads: int
    head_dim: int
    window: int
    ratio: int
    index_head_dim: int | None = None
    overlap: bool = False
    keys_from_rows: bool = False
    index_topk: int | None = None


@dataclass(frozen=True, slots=True)
class Mamba1State:
    """Selective state space of Mamba 1: conv `[intermediate, conv_kernel - 1]`, state `[intermediate, state_size]`."""

    intermediate_size: int
    state_size: int
    conv_kernel: int
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class Mamba2State:
    """State space of Mamba 2: conv `[num_heads·head_dim + 2·num_groups·state_size, conv_kernel - 1]`, state
    `[num_heads, head_dim, state_size]`."""

    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class DeltaNetState:
    """Gated delta net (Qwen3-Next): conv over q, k and v `[2·num_k_heads·head_k_dim + num_v_heads·head_v_dim, conv_kernel - 1]`,
    state `[num_v_heads, head_k_dim, head_v_dim]`."""

    num_k_heads: int
    num_v_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_kernel: int
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class LinearAttentionState:
    """Linear (lightning) attention: one matrix `[num_heads, head_dim, head_dim]`, no convolution."""

    num_heads: int
    head_dim: int
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class KimiDeltaState:
    """Kimi delta attention: three convolutions (q, k, v), each `[num_heads·head_dim, conv_kernel - 1]`, state
    `[num_heads, head_k_dim, head_v_dim]`. `bounded_gate`: the decay has a lower bound (K3), which some kernels ask for."""

    num_heads: int
    head_k_dim: int
    head_v_dim: int
    conv_kernel: int
    state_dtype: str | None = None
    bounded_gate: bool = False


@dataclass(frozen=True, slots=True)
class ShortConvState:
    """Gated short convolution (LFM2): `[hidden_size, conv_kernel - 1]`."""

    hidden_size: int
    conv_kernel: int


@dataclass(frozen=True, slots=True)
class RgLruState:
    """Real-gated linear recurrent unit (RecurrentGemma): conv `[width, conv_kernel - 1]`, state `[width]`."""

    width: int
    conv_kernel: int
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class RwkvState:
    """RWKV: `num_vectors` vectors of `hidden_size`; from v5 on also `[num_heads, head_dim, head_dim]` (`num_heads` 0: none)."""

    hidden_size: int
    num_vectors: int
    num_heads: int = 0
    head_dim: int = 0
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class CcaState:
    """Compressed convolutional attention (Zaya), beside the layer's KV cache: the last `history` columns of q and k before two
    convolutions `[channels, history]`, and the half of v that is used one token later `[delayed]`."""

    channels: int
    history: int
    delayed: int


@dataclass(frozen=True, slots=True)
class MatrixMemoryState:
    """xLSTM's matrix memory: `[num_heads, qk_head_dim, v_head_dim]`, its normaliser `[num_heads, qk_head_dim]` and the running
    maximum of the gates `[num_heads]`."""

    num_heads: int
    qk_head_dim: int
    v_head_dim: int
    state_dtype: str | None = None


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Keys and values of an encoder's output, written once: constant in the decoder's context.

    `source_tokens` is the longest encoder output (Whisper: 1500), or None where the input decides (T5: as long as the source text;
    Mllama: grows with images).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    source_tokens: int | None


@dataclass(frozen=True, slots=True)
class SharedCache:
    """The layer attends over another layer's cache and keeps none of its own (Gemma 3n, Gemma 4). `source_layer` is an index."""

    source_layer: int


@dataclass(frozen=True, slots=True)
class NoCache:
    """Nothing is kept between tokens: an encoder layer, a vision block, a block without attention. `role` says which."""

    role: str


RecurrentCache = (
    Mamba1State
    | Mamba2State
    | DeltaNetState
    | LinearAttentionState
    | KimiDeltaState
    | ShortConvState
    | RgLruState
    | RwkvState
    | CcaState
    | MatrixMemoryState
)

#: kinds that keep nothing for a token
NoTokens = RecurrentCache | SharedCache | NoCache

Cache = (
    FullAttention
    | SlidingAttention
    | ChunkedAttention
    | LatentAttention
    | SparseLatentAttention
    | IndexedAttention
    | CompressedAttention
    | CrossAttention
    | NoTokens
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One block in execution order and what it keeps: one cache as a rule, two in parallel hybrids (Falcon-H1: attention and
    state) and in decoders with cross attention (self and cross)."""

    caches: tuple[Cache, ...]
    stack: str = "decoder"  # "decoder" | "encoder" | "vision" | "audio" | "mtp"; beside a target "predict" | "draft"
