"""Cells of llama.cpp's caches: how many each kind of layer has, and what a row and a state take.

Read from the files that `hfmem.memory.engines.llama_cpp` names.
"""

from __future__ import annotations

from typing import Final, NamedTuple, assert_type

from hfmem.dtypes import num_bytes
from hfmem.errors import UnsupportedError
from hfmem.memory.cache import decoding_layers, state_tensors
from hfmem.memory.formats import GGML_BLOCKS, KV_BITS
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.families.gguf_tables import SHORT_CONV, WINDOWED
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    NoCache,
    NoTokens,
    RecurrentCache,
    RgLruState,
    RwkvState,
    SharedCache,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass

#: cells that the context and a windowed cache are rounded up to
PAD: Final = 256
#: `--ubatch-size` default
UBATCH: Final = 512

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
#: families windowed by their architecture there, be it in every layer (names of `general.architecture`, which are the families')
_WINDOWED: Final = frozenset(WINDOWED) | SHORT_CONV
#: families whose index keys are pooled or compressed in a way that the layers here do not tell
_POOLED_INDEX: Final = frozenset({"glm5_next", "glm5_next_text", "qwen4_exp", "qwen4_exp_text"})
#: DeepSeek V4's compressors keep this many unfinished rows, values and scores in fp32: ratio → rows, and rows of how many heads
_COMPRESSORS: Final[dict[int, tuple[int, int]]] = {4: (8, 2), 128: (128, 1)}


@dataclass(frozen=True, slots=True)
class Formats:
    """Types of keys and values: a name of `KV_BITS` each."""

    key: str
    value: str


class Seen(NamedTuple):
    """What a layer's attention reads of one stream: cells of its cache, compressed rows, and how many of either an indexer scores
    first; and how many streams there are."""

    cells: int
    rows: int
    scored: int
    streams: int


def seen(kind: Cache, arch: Architecture, serving: Serving) -> Seen:
    """What attention of that kind reads."""
    held = cells_of(arch, serving, serving.num_seqs_per_replica)
    cells, streams = held.of(kind), 1 if held.shared else held.seqs
    match kind:
        case CompressedAttention(ratio=ratio) if ratio:
            rows = held.rows(ratio)
            return Seen(cells, rows, rows if kind.index_head_dim else 0, streams)
        case SparseLatentAttention(has_indexer=True):
            return Seen(cells, 0, cells, streams)
        case _:
            return Seen(cells, 0, 0, streams)


def formats_of(serving: Serving) -> Formats:
    """Types of the cache.

    Raises:
        UnsupportedError: a format that llama.cpp does not have.
    """
    names = [serving.kv_dtype, serving.llama_cpp.value_dtype or serving.kv_dtype]
    for name in names:
        if name not in _TYPES:
            raise UnsupportedError(f"llama.cpp has no {name} cache")
    return Formats(_TYPES[names[0]], _TYPES[names[1]])


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of one stream: `base` of layers that keep every token; of windowed ones the window's and a micro-batch's.

    `shared`: all `seqs` sequences live in one stream (`--kv-unified`). `windows` False: windowed layers keep every token;
    `swa_full`: those with compressed rows beside their window, too (`--swa-full`).
    """

    base: int
    ubatch: int
    seqs: int
    shared: bool
    windows: bool
    swa_full: bool = False

    def of(self, kind: Cache) -> int:
        """Cells in one layer; 0 where there are none."""
        match kind:
            case SlidingAttention(window=size) | ChunkedAttention(chunk=size):
                return self.windowed(size) if self.windows else self.base
            case CompressedAttention(window=size):
                return self.base if self.swa_full else self.windowed(size)
            case FullAttention() | LatentAttention() | SparseLatentAttention() | IndexedAttention():
                return self.base
            case CrossAttention():  # computed anew from the encoder's output
                return 0
            case _:
                assert_type(kind, NoTokens)
                return 0

    def rows(self, ratio: int) -> int:
        """Compressed rows of all tokens."""
        return _pad(-(-self.base // ratio))

    def windowed(self, size: int) -> int:
        """Cells of a window, never more than those of everything."""
        return _pad(min(self.base, size * (self.seqs if self.shared else 1) + self.ubatch))


def cells_of(arch: Architecture, serving: Serving, seqs: int) -> Cells:
    # DeepSeek V4 keeps a stream a sequence all the same, each of the whole context (`llama-kv-cache-dsv4.cpp`)
    compressed = any(isinstance(kind, CompressedAttention) for kind in arch.kinds())
    shared = serving.llama_cpp.unified and not compressed
    total = serving.context * seqs
    return Cells(
        base=_pad(total if serving.llama_cpp.unified else serving.context),
        ubatch=min(serving.llama_cpp.ubatch or UBATCH, total),
        seqs=seqs,
        shared=shared,
        windows=uses_windows(arch) and not serving.llama_cpp.swa_full,
        swa_full=serving.llama_cpp.swa_full,
    )


def layer_bytes(kind: Cache, cells: Cells, row: int, formats: Formats) -> int:
    """Bytes of one layer's cells in one stream."""
    size = cells.of(kind) * row
    if isinstance(kind, CompressedAttention) and kind.ratio:
        if kind.ratio not in _COMPRESSORS:
            raise UnsupportedError(f"llama.cpp compresses by 4 or 128 tokens, not by {kind.ratio}")
        index = _row(formats.key, kind.index_head_dim) if kind.index_head_dim else 0
        size += cells.rows(kind.ratio) * (row + index)
    return size


def cell_bytes(
    arch: Architecture,
    context: int,
    key_type: str,
    value_type: str,
    *,
    latent: str = "compressed",
    windows: bool = True,
    slots: int = 1,
    unified: bool = False,
    ubatch: int = UBATCH,
    full_only: bool = False,
) -> int:
    """Bytes of the cells of `context` tokens that `slots` sequences share, with types of their own for keys (`-ctk`) and values
    (`-ctv`), as the log sums them.

    Args:
        unified: all sequences in one stream; else each has its part of the context.
        ubatch: `n_ubatch`, which windows are kept beside.
        latent: how latent attention is kept: `compressed` (today), `transposed` (`mla = 1` of ik_llama.cpp: the latent once more,
            transposed), or `full` keys and values of every head (before MLA).
        windows: False: windowed layers keep every token, as before the two caches of `llama-kv-cache-iswa`.
        full_only: without the layers that have a cache of their own for their windows.

    Raises:
        UnsupportedError: a type or kind of cache that llama.cpp does not have.
    """
    names = {"f16": "fp16", "f32": "fp32"}
    key, value = (_TYPES.get(names.get(name, name)) for name in (key_type, value_type))
    if key is None or value is None:
        raise UnsupportedError(f"llama.cpp has no {key_type if key is None else value_type} cache")
    formats = Formats(key, value)
    each = context if unified else context // slots
    cells = Cells(_pad(each), min(ubatch, context), slots, unified, windows and uses_windows(arch))
    total = 0
    for layer in decoding_layers(arch):
        for kind in layer.caches:
            if full_only and isinstance(kind, SlidingAttention | ChunkedAttention):
                continue
            match kind:
                case LatentAttention() if latent == "full":
                    width = kind.qk_nope_head_dim + kind.qk_rope_head_dim
                    row = _row(key, width, kind.num_heads) + _row(value, kind.v_head_dim, kind.num_heads)
                case LatentAttention() if latent == "transposed":
                    row = _row(key, kind.kv_lora_rank + kind.qk_rope_head_dim) + _row(value, kind.kv_lora_rank)
                case _:
                    row = row_bytes(kind, formats)
            total += layer_bytes(kind, cells, row, formats)
    return total if unified else total * slots


def state_cell_bytes(arch: Architecture) -> int:
    """Bytes of one cell of `llama_memory_recurrent`: a sequence's states in all layers.

    Raises:
        UnsupportedError: states that llama.cpp does not have.
    """
    return sum(state_bytes(kind, arch) for layer in decoding_layers(arch) for kind in layer.caches)


def _pad(tokens: int) -> int:
    return -(-tokens // PAD) * PAD


def uses_windows(arch: Architecture) -> bool:
    """Whether windowed layers get the smaller cache: in models that mix them with full ones, and under architectures that know
    windows whatever the pattern.

    Other models windowed in every layer (Mistral 7B, Phi-3) run under architectures that keep all tokens.
    """
    if arch.model_type in _NO_WINDOWS:
        return False
    return arch.model_type in _WINDOWED or any(isinstance(cache, FullAttention) for cache in arch.kinds())


def _row(fmt: str, elements: int, heads: int = 1) -> int:
    """Bytes of one cell's row of that many heads (`ggml_row_size`): whole blocks in each head."""
    if fmt in GGML_BLOCKS:
        block, size = GGML_BLOCKS[fmt]
        if elements % block:
            raise UnsupportedError(
                f"llama.cpp's {fmt} cache needs heads of whole blocks of {block}, not {elements} elements"
            )
        return heads * elements // block * size
    return heads * elements * KV_BITS[fmt] // 8


def row_bytes(kind: Cache, formats: Formats) -> int:
    """Bytes of one cell in one layer."""
    key, value = formats.key, formats.value
    match kind:
        case FullAttention() | SlidingAttention() | ChunkedAttention():
            return _row(key, kind.head_dim, kind.num_kv_heads) + _row(value, kind.v_head_dim, kind.num_kv_heads)
        case IndexedAttention(
            head_dim=k, v_head_dim=v, index_head_dim=index
        ):  # the index cache has values as well, unused
            return (
                _row(key, k, kind.num_kv_heads) + _row(value, v, kind.num_kv_heads) + _row(key, index) + _row(value, v)
            )
        case LatentAttention():
            return _row(key, kind.kv_lora_rank + kind.qk_rope_head_dim)
        case SparseLatentAttention():
            index = _row(key, kind.index_head_dim) if kind.has_indexer else 0
            return _row(key, kind.kv_lora_rank + kind.qk_rope_head_dim) + index
        case CompressedAttention():
            return _row(key, kind.head_dim)
        case CrossAttention():  # computed anew from the encoder's output
            return 0
        case _:
            assert_type(kind, NoTokens)
            return 0


def state_bytes(kind: Cache, arch: Architecture) -> int:
    """Bytes of one sequence's state in one layer: convolution rows and states in fp32."""
    if arch.model_type in _POOLED_INDEX:
        raise UnsupportedError(f"the cells of {arch.model_type} models in llama.cpp are not known here")
    match kind:
        case RgLruState():
            raise UnsupportedError(f"llama.cpp has no {arch.model_type} models")
        case RwkvState(num_heads=0):
            raise UnsupportedError("llama.cpp has RWKV from version 6 on")
        case CompressedAttention(ratio=ratio) if ratio in _COMPRESSORS:
            rows, heads = _COMPRESSORS[ratio]
            return num_bytes("F32", 2 * rows * heads * (kind.head_dim + (kind.index_head_dim or 0)))
        case SharedCache() | NoCache() | CrossAttention():
            return 0
        case _:
            if isinstance(kind, RecurrentCache):
                return sum(num_bytes("F32", tensor.elements) for tensor in state_tensors(kind))
            return 0
