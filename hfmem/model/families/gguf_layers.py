"""Layer kinds of a GGUF model, by the tables of its architecture and the keys of the file."""

from __future__ import annotations

from hfmem.errors import ContradictionError, MissingKeyError
from hfmem.model.architecture import Note
from hfmem.model.families import gguf_tables as tables
from hfmem.model.families.gguf_keys import Keys
from hfmem.model.layers import (
    Cache,
    ChunkedAttention,
    CompressedAttention,
    CrossAttention,
    DeltaNetState,
    FullAttention,
    IndexedAttention,
    KimiDeltaState,
    LatentAttention,
    Layer,
    LinearAttentionState,
    Mamba1State,
    Mamba2State,
    NoCache,
    RwkvState,
    SharedCache,
    ShortConvState,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.records import dataclass

#: Gemma 3n's loader: layers from here on use an earlier layer's cache
_GEMMA3N_OWN = 20
#: loaders that divide layers into linear and full attention without a key: every fourth is full, MiniMax-01's eighth
_INTERVAL, _LIGHTNING_INTERVAL = 4, 8
_RWKV_SHIFTS = 2
#: DeepSeek V4's ratio of layers with an indexer (`llama-kv-cache-dsv4.cpp`)
_OVERLAPPED = 4


@dataclass(frozen=True, slots=True)
class Attention:
    """Heads of the model's first layer that has any."""

    heads: int
    kv_heads: int
    key_length: int
    value_length: int


class Heads:
    """Heads and their sizes, layer by layer; windowed layers may have sizes of their own."""

    def __init__(self, keys: Keys) -> None:
        self.heads = keys.per_layer("attention.head_count")
        self.kv_heads = keys.per_layer("attention.head_count_kv", self.heads)
        width = keys.positive("embedding_length") // self.heads[0] if self.heads[0] else 0
        self.key_length = self._size(keys, "attention.key_length", width)
        self.value_length = self._size(keys, "attention.value_length", width)
        self.key_length_swa = self._size(keys, "attention.key_length_swa", self.key_length)
        self.value_length_swa = self._size(keys, "attention.value_length_swa", self.value_length)

    @staticmethod
    def _size(keys: Keys, key: str, default: int) -> int:
        value = keys.opt(key)
        return default if value is None else value

    def full(self, layer: int) -> Cache:
        """Keys and values of every token, nothing in a layer without KV heads."""
        if not self.kv_heads[layer]:
            return NoCache("no attention")
        return FullAttention(self.heads[layer], self.kv_heads[layer], self.key_length, self.value_length)

    def sliding(self, layer: int, window: int, chunked: bool) -> Cache:
        """Keys and values within a window."""
        if not self.kv_heads[layer]:
            return NoCache("no attention")
        kind = ChunkedAttention if chunked else SlidingAttention
        return kind(self.heads[layer], self.kv_heads[layer], self.key_length_swa, self.value_length_swa, window)

    def first(self) -> Attention | None:
        """The first layer with KV heads."""
        for heads, kv_heads in zip(self.heads, self.kv_heads, strict=True):
            if kv_heads:
                return Attention(heads, kv_heads, self.key_length, self.value_length)
        return None


def read_layers(keys: Keys, drafts: int) -> tuple[list[Layer], Attention | None, list[Note]]:
    """The layers in order (the last `drafts` predict further tokens), the first layer's heads, and what is worth saying."""
    name = keys.architecture
    if name == "t5":
        return _t5(keys)
    if name in tables.WITHOUT_CACHE:
        heads = Heads(keys)
        return [Layer((NoCache("encoder"),), "encoder")] * keys.num_layers, heads.first(), []
    if name in tables.MAMBA1 | tables.MAMBA2 | tables.RWKV:
        state = _rwkv(keys) if name in tables.RWKV else _mamba(keys, second=name in tables.MAMBA2)
        return [Layer((state,))] * keys.num_layers, None, []
    heads = Heads(keys)
    notes: list[Note] = []
    caches: list[tuple[Cache, ...]]
    if name in tables.LATENT:
        caches = [(cache,) for cache in _latent(keys, heads, notes)]
    elif name in tables.COMPRESSED:
        caches = [(cache,) for cache in _compressed(keys, heads)]
    elif name in tables.INDEXED:
        caches = [(cache,) for cache in _indexed(keys, heads)]
    elif name in tables.WINDOWED:
        caches = [(cache,) for cache in _windowed(keys, heads, tables.WINDOWED[name])]
    elif name in tables.FULL:
        loops = (keys.opt("num_loops") or 1) if name == "nanbeige" else 1  # passes with keys and values of their own
        caches = [(cache,) * loops for cache in _full(keys, heads)]
    else:
        caches = _hybrid(keys, heads)
    last = keys.num_layers - drafts
    return [Layer(cache, "decoder" if i < last else "mtp") for i, cache in enumerate(caches)], heads.first(), notes


def _full(keys: Keys, heads: Heads) -> list[Cache]:
    if keys.architecture == "phi3" and (window := keys.opt("attention.sliding_window")):
        # the model's window; llama.cpp's own rules keep every token where all layers slide
        return [heads.sliding(i, window, False) for i in range(keys.num_layers)]
    return [heads.full(i) for i in range(keys.num_layers)]


def _windowed(keys: Keys, heads: Heads, rule: tables.Windows) -> list[Cache]:
    slides, window = _slides(keys, rule)
    own = keys.num_layers - (keys.opt("attention.shared_kv_layers") or 0)
    if keys.architecture == "gemma3n" and own == keys.num_layers:
        own = min(own, _GEMMA3N_OWN)
    caches: list[Cache] = []
    for i, sliding in enumerate(slides):
        if i < own:
            caches.append(heads.sliding(i, window, rule.chunked) if sliding else heads.full(i))
            continue
        source = next((j for j in range(own - 1, -1, -1) if slides[j] == sliding), None)
        if source is None:
            raise ContradictionError(f"{keys.file}: layer {i} shares a cache that no earlier layer has")
        caches.append(SharedCache(source))
    return caches


def _slides(keys: Keys, rule: tables.Windows) -> tuple[list[bool], int]:
    """Which layers slide, and over how many tokens."""
    none = [False] * keys.num_layers
    if rule.only_layers not in (None, keys.num_layers):
        return none, 0
    window = keys.opt("attention.sliding_window")
    if window == 0 or (window is None and not rule.required):
        return none, 0
    if rule.fixed or window is None:
        if rule.window is None:
            raise MissingKeyError(f"{keys.file}: the key {keys.name('attention.sliding_window')} is missing")
        window = rule.window
    given = keys.raw("attention.sliding_window_pattern")
    if isinstance(given, list):
        return [bool(flag) for flag in keys.per_layer("attention.sliding_window_pattern")], window
    period = rule.period if given is None else keys.need("attention.sliding_window_pattern")
    if period is None:
        raise MissingKeyError(f"{keys.file}: the key {keys.name('attention.sliding_window_pattern')} is missing")
    full_at = 0 if rule.dense_first else period - 1
    return [period == 0 or i % period != full_at for i in range(keys.num_layers)], window


def _latent(keys: Keys, heads: Heads, notes: list[Note]) -> list[Cache]:
    """Latent rows where the file has the keys of the compressed form, else expanded keys and values, as llama.cpp caches them."""
    if not keys.opt("attention.key_length_mla"):
        notes.append(
            Note(
                "gguf_without_mla",
                f"{keys.file} was converted before llama.cpp kept latent rows: every head's keys and values are cached",
            )
        )
        return [heads.full(i) for i in range(keys.num_layers)]
    kinds = keys.raw("attention.indexer.types")
    full = None if kinds is None else _indexers(keys, kinds)
    sparse = keys.architecture in ("deepseek32", "glm-dsa")
    sparse = sparse or (keys.architecture == "hy_v4" and bool(keys.opt("attention.indexer.top_k")))
    return [_latent_layer(keys, heads, i, sparse, full is None or full[i]) for i in range(keys.num_layers)]


def _compressed(keys: Keys, heads: Heads) -> list[Cache]:
    """DeepSeek V4: by its ratio a layer keeps the window alone (0), overlapping groups of 4 with an indexer, or larger groups."""
    window = keys.positive("attention.sliding_window")
    ratios = keys.per_layer("attention.compress_ratios")
    index = keys.positive("attention.indexer.key_length") if _OVERLAPPED in ratios else None
    top = keys.opt("attention.indexer.top_k") or None
    return [
        CompressedAttention(
            heads.heads[i],
            heads.key_length,
            window,
            ratio,
            index if ratio == _OVERLAPPED else None,
            ratio == _OVERLAPPED,
            index_topk=top if ratio == _OVERLAPPED else None,
        )
        for i, ratio in enumerate(ratios)
    ]


def _indexers(keys: Keys, kinds: object) -> list[bool]:
    if isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds):
        flags = [kind == "full" for kind in kinds]
        return flags + [True] * (keys.num_layers - len(flags))
    flags = [bool(flag) for flag in kinds] if isinstance(kinds, list) else []
    return flags + [True] * (keys.num_layers - len(flags))


def _latent_layer(keys: Keys, heads: Heads, layer: int, sparse: bool, indexer: bool) -> Cache:
    rank = keys.positive("attention.kv_lora_rank")
    rope = keys.opt("rope.dimension_count")
    if rope is None:
        rope = heads.key_length - rank
    length = keys.need("attention.key_length_mla")
    if rope < 0 or length < rope:
        raise ContradictionError(
            f"{keys.file}: {keys.name('attention.key_length_mla')} is {length}, its rotary part {rope}"
        )
    value = keys.need("attention.value_length_mla")
    if not sparse:
        return LatentAttention(heads.heads[layer], rank, rope, length - rope, value)
    size, top = keys.positive("attention.indexer.key_length"), keys.positive("attention.indexer.top_k")
    return SparseLatentAttention(heads.heads[layer], rank, rope, length - rope, value, size, top, indexer)


def _hybrid(keys: Keys, heads: Heads) -> list[tuple[Cache, ...]]:
    """Attention in some layers, a state in the others, or both in each."""
    name = keys.architecture
    layers = range(keys.num_layers)
    attends = [kv > 0 for kv in heads.kv_heads]
    if name in tables.PARALLEL_MAMBA2:
        return [(heads.full(i), _mamba(keys, second=True)) for i in layers]
    if name in tables.HYBRID_MAMBA1 | tables.HYBRID_MAMBA2:
        state: Cache = _mamba(keys, second=name in tables.HYBRID_MAMBA2)
        if name.startswith("nemotron_h"):
            wide = keys.per_layer("feed_forward_length")
            return [(NoCache("feed-forward") if wide[i] else heads.full(i) if attends[i] else state,) for i in layers]
        return [(heads.full(i) if attends[i] else state,) for i in layers]
    if name in tables.SHORT_CONV:
        conv = ShortConvState(keys.positive("embedding_length"), keys.positive("shortconv.l_cache"))
        window = keys.opt("attention.sliding_window") or 0
        return [
            ((heads.sliding(i, window, False) if window else heads.full(i)) if attends[i] else conv,) for i in layers
        ]
    if name in tables.KIMI_DELTA:
        size, kernel = keys.positive("kda.head_dim"), keys.positive("ssm.conv_kernel")
        return [
            (
                _latent_layer(keys, heads, i, False, False)
                if attends[i]
                else KimiDeltaState(heads.heads[0], size, size, kernel),  # `n_head()`: the first layer's
            )
            for i in layers
        ]
    linear = _recurrent(keys)
    if name in tables.LIGHTNING:
        matrix = LinearAttentionState(heads.heads[0], heads.key_length)
        return [(matrix if linear[i] else heads.full(i),) for i in layers]
    inner, values = keys.positive("ssm.inner_size"), keys.positive("ssm.time_step_rank")
    if inner % values:
        raise ContradictionError(f"{keys.file}: {keys.name('ssm.inner_size')} {inner} is not {values} heads")
    delta = DeltaNetState(
        keys.positive("ssm.group_count"),
        values,
        keys.positive("ssm.state_size"),
        inner // values,
        keys.positive("ssm.conv_kernel"),
    )
    return [(delta if linear[i] else heads.full(i),) for i in layers]


def _recurrent(keys: Keys) -> list[bool]:
    """Which layers are recurrent: as the file lists them, else all but every fourth (MiniMax-01: eighth)."""
    if keys.raw("attention.recurrent_layers") is not None:
        return [bool(flag) for flag in keys.per_layer("attention.recurrent_layers")]
    usual = _LIGHTNING_INTERVAL if keys.architecture in tables.LIGHTNING else _INTERVAL
    interval = keys.opt("full_attention_interval") or usual
    drafts = keys.opt("nextn_predict_layers") or 0
    return [(i + 1) % interval != 0 and i < keys.num_layers - drafts for i in range(keys.num_layers)]


def _indexed(keys: Keys, heads: Heads) -> list[Cache]:
    """MiniMax M3: after the leading dense layers, beside the keys and values of each head one key for the indexer."""
    size = keys.positive("attention.indexer.key_length")
    block = keys.positive("attention.indexer.block_size")
    top = keys.positive("attention.indexer.top_k") * block
    dense = keys.opt("leading_dense_block_count") or 0
    return [
        heads.full(i)
        if i < dense
        else IndexedAttention(heads.heads[i], heads.kv_heads[i], heads.key_length, heads.value_length, size, top, block)
        for i in range(keys.num_layers)
    ]


def _mamba(keys: Keys, *, second: bool) -> Mamba1State | Mamba2State:
    inner, kernel = keys.positive("ssm.inner_size"), keys.positive("ssm.conv_kernel")
    state = keys.positive("ssm.state_size")
    if not second:
        return Mamba1State(inner, state, kernel)
    heads = keys.positive("ssm.time_step_rank")
    if inner % heads:
        raise ContradictionError(f"{keys.file}: {keys.name('ssm.inner_size')} {inner} is not {heads} heads")
    return Mamba2State(heads, inner // heads, state, keys.opt("ssm.group_count") or 0, kernel)


def _rwkv(keys: Keys) -> RwkvState:
    hidden, size = keys.positive("embedding_length"), keys.positive("wkv.head_size")
    if hidden % size:
        raise ContradictionError(f"{keys.file}: {keys.name('embedding_length')} {hidden} is not heads of {size}")
    shifts = keys.opt("token_shift_count")
    return RwkvState(hidden, _RWKV_SHIFTS if shifts is None else shifts, hidden // size, size)


def _t5(keys: Keys) -> tuple[list[Layer], Attention | None, list[Note]]:
    """Encoder and decoder; the decoder may have a depth of its own."""
    heads = Heads(keys)
    count = keys.opt("decoder_block_count") or keys.num_layers
    own = heads.full(0)
    cross = CrossAttention(heads.heads[0], heads.kv_heads[0], heads.key_length, None)
    decoder = [Layer((own, cross))] * count
    return [*decoder, *[Layer((NoCache("encoder"),), "encoder")] * keys.num_layers], heads.first(), []
