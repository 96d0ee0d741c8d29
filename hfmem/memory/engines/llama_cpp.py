"""llama.cpp's cache: cells allocated for the whole context at start, windowed layers in a smaller cache of their own.

Read from ggml-org/llama.cpp as stored in November 2026: `src/llama-context.cpp` (context rounded up to 256 cells),
`src/llama-kv-cache.cpp` (K and V rows a layer, no V under latent attention), `src/llama-kv-cache-iswa.cpp` (window + micro-batch,
rounded up to 256), `src/llama-kv-cache-dsa.cpp` (indexer keys), `src/llama-memory-recurrent.cpp` and `src/llama-hparams.cpp`
(fp32 states).
"""

from __future__ import annotations

from typing import Final

from hfmem.dtypes import num_bytes
from hfmem.errors import UnsupportedError
from hfmem.memory.cache import decoding_layers, state_tensors
from hfmem.memory.formats import GGML_BLOCKS, KV_BITS
from hfmem.memory.result import CacheBytes, LayerGroup, group_layers
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    LinearAttentionState,
    NoCache,
    RecurrentCache,
    RgLruState,
    RwkvState,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)

NAME: Final = "llama.cpp"
VERSION: Final = "2026-11"

#: cells that the context and a windowed cache are rounded up to
_PAD: Final = 256
#: `--batch-size` and `--ubatch-size` defaults
_BATCH: Final = 2048
_UBATCH: Final = 512

#: format asked for → the type given to `-ctk` and `-ctv`; `auto` is f16 whatever the model's dtype
_TYPES: Final[dict[str, str]] = {
    "auto": "fp16",
    "fp16": "fp16",
    "bf16": "bf16",
    "fp32": "fp32",
    "int8": "q8_0",
    "int4": "q4_0",
    **{name: name for name in GGML_BLOCKS},
}
#: families whose code keeps every token although the config names windows in some layers
_NO_WINDOWS: Final = frozenset({"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gpt_neo"})
#: families without an implementation
_NOT_SERVED: Final = frozenset(
    {
        "whisper",
        "bart",
        "mbart",
        "pegasus",
        "m2m_100",
        "marian",
        "florence2",
        "mllama",
        "recurrent_gemma",
        "zamba",
        "zamba2",
    }
)


def cache(arch: Architecture, serving: Serving) -> CacheBytes:
    """Bytes allocated for `num_seqs` slots of `context` tokens each (`--parallel`, not unified).

    Devices hold runs of layers (`--split-mode layer`): `tp` and `pp` both count them.

    Raises:
        UnsupportedError: a model or format llama.cpp does not have.
    """
    if arch.model_type in _NOT_SERVED:
        raise UnsupportedError(f"llama.cpp has no {arch.model_type} models")
    if serving.kv_dtype not in _TYPES:
        raise UnsupportedError(f"llama.cpp has no {serving.kv_dtype} cache")
    fmt = _TYPES[serving.kv_dtype]
    cells = _pad(serving.context)
    layers = decoding_layers(arch)
    windows = _uses_windows(arch)
    devices = serving.tp * serving.pp
    on_device = [0] * devices
    groups = []
    for kind, indices in group_layers(tuple(layer.caches for layer in layers)).items():
        row = _row_bytes(kind, fmt)
        held = _cells(kind, cells, serving.context) if windows else (cells if row else 0)
        state = _state_bytes(kind, arch)
        groups.append(LayerGroup(kind, indices, row, held, len(indices) * (held * row + state), len(indices) * state))
        for index in indices:
            on_device[index * devices // len(layers)] += held * row + state
    per_seq = sum(group.bytes for group in groups)
    return CacheBytes(
        engine=NAME,
        kv_dtype=fmt,
        bytes=per_seq * serving.num_seqs,
        bytes_per_rank=max(on_device) * serving.num_seqs_per_replica,
        bytes_per_seq=per_seq,
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        page_size=_PAD,
        stage_bytes=tuple(size * serving.num_seqs_per_replica for size in on_device),
    )


def cell_bytes(
    arch: Architecture,
    context: int,
    key_type: str,
    value_type: str,
    *,
    latent: str = "compressed",
    windows: bool = True,
) -> int:
    """Bytes of the cells of one sequence with types of their own for keys (`-ctk`) and values (`-ctv`), as the log sums them.

    Args:
        latent: how latent attention is kept: `compressed` (today), `transposed` (`mla = 1` of ik_llama.cpp: the latent once more,
            transposed), or `full` keys and values of every head (before MLA).
        windows: False: windowed layers keep every token, as before the two caches of `llama-kv-cache-iswa`.

    Raises:
        UnsupportedError: a type or kind of cache that llama.cpp does not have.
    """
    key, value = (_TYPES.get({"f16": "fp16", "f32": "fp32"}.get(name, name)) for name in (key_type, value_type))
    if key is None or value is None:
        raise UnsupportedError(f"llama.cpp has no {key_type if key is None else value_type} cache")
    cells, split = _pad(context), windows and _uses_windows(arch)
    total = 0
    for layer in decoding_layers(arch):
        for kind in layer.caches:
            match kind:
                case FullAttention() | SlidingAttention() | ChunkedAttention():
                    row = _row(key, kind.num_kv_heads * kind.head_dim) + _row(
                        value, kind.num_kv_heads * kind.v_head_dim
                    )
                case LatentAttention() if latent == "full":
                    width = kind.qk_nope_head_dim + kind.qk_rope_head_dim
                    row = _row(key, kind.num_heads * width) + _row(value, kind.num_heads * kind.v_head_dim)
                case LatentAttention() if latent == "transposed":
                    row = _row(key, kind.kv_lora_rank + kind.qk_rope_head_dim) + _row(value, kind.kv_lora_rank)
                case _:
                    row = _row_bytes(kind, key)
            total += row * (_cells(kind, cells, context) if split else cells if row else 0)
    return total


def _pad(tokens: int) -> int:
    return -(-tokens // _PAD) * _PAD


def _uses_windows(arch: Architecture) -> bool:
    """Whether windowed layers get the smaller cache: in models that mix them with full ones.

    Models windowed in every layer (Mistral 7B, Phi-3) run under architectures that keep all tokens.
    """
    if arch.model_type in _NO_WINDOWS:
        return False
    return any(isinstance(cache, FullAttention) for cache in arch.caches())


def _cells(kind: Cache, cells: int, context: int) -> int:
    """Cells of one layer's cache: the context's, or those of the window and one micro-batch."""
    ubatch = min(_UBATCH, _BATCH, _pad(context))
    match kind:
        case SlidingAttention(window=size) | ChunkedAttention(chunk=size):
            return _pad(min(cells, size + ubatch))
        case FullAttention() | LatentAttention() | SparseLatentAttention() | IndexedAttention():
            return cells
        case _:
            return 0


def _row(fmt: str, elements: int) -> int:
    """Bytes of one cell's row (`ggml_row_size`): whole blocks only."""
    if fmt in GGML_BLOCKS:
        block, size = GGML_BLOCKS[fmt]
        if elements % block:
            raise UnsupportedError(
                f"llama.cpp's {fmt} cache needs rows of whole blocks of {block}, not {elements} elements"
            )
        return elements // block * size
    return elements * KV_BITS[fmt] // 8


def _row_bytes(kind: Cache, fmt: str) -> int:
    """Bytes of one cell in one layer."""
    match kind:
        case FullAttention() | SlidingAttention() | ChunkedAttention():
            return _row(fmt, kind.num_kv_heads * kind.head_dim) + _row(fmt, kind.num_kv_heads * kind.v_head_dim)
        case LatentAttention():
            return _row(fmt, kind.kv_lora_rank + kind.qk_rope_head_dim)
        case SparseLatentAttention():
            index = _row(fmt, kind.index_head_dim) if kind.has_indexer else 0
            return _row(fmt, kind.kv_lora_rank + kind.qk_rope_head_dim) + index
        case IndexedAttention() | CompressedAttention():
            raise UnsupportedError("the cells of this model's cache in llama.cpp are not known here")
        case _:
            return 0  # states; cross attention is computed anew from the encoder's output


def _state_bytes(kind: Cache, arch: Architecture) -> int:
    """Bytes of one sequence's state in one layer: convolution rows and states in fp32."""
    match kind:
        case RgLruState() | LinearAttentionState():
            raise UnsupportedError(f"llama.cpp has no {arch.model_type} models")
        case RwkvState(num_heads=0):
            raise UnsupportedError("llama.cpp has RWKV from version 6 on")
        case SharedCache() | NoCache() | CrossAttention():
            return 0
        case _:
            if isinstance(kind, RecurrentCache):
                return sum(num_bytes("F32", tensor.elements) for tensor in state_tensors(kind))
            return 0
