"""Which launch configuration a shape gets on a device: pure arithmetic over a small table, no torch, no GPU, no autotuning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from hfmem_kernels.layout import SPLIT_ROW_BYTES


def next_power_of_2(n: int) -> int:
    """Smallest power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """Everything about a launch that is free to choose.

    block_m, block_n: query rows and tokens of a tile. ctas_per_sm: programs a multiprocessor is to hold; the grid is that many
    for each. register_cap: most registers of a thread, 0 for the compiler's choice. split_tiles: 0 for equal shares of all
    tiles, else the tiles of a fixed split. pairs: read 8-bit caches as uint16. min_tiles: fewest tiles of a share. snap_tiles:
    the edges of shares keep at least that far from the edges of items, or lie on them. max_pieces: most programs for each
    item on average, 0 for any number. lockstep: work on a sequence's KV heads side by side, not one after the other
    (`_kernels_schedule`). piece_cost: how many tiles a program could read in the time it takes to turn to another item.
    cut: with 16 query rows, take columns in parts, whose products do not wait for each other (`scores_of`). convert: decode e4m3
    and e5m2 by the conversion of sm_89 and later where there is one, not by integer arithmetic (`decode_pair`).
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    ctas_per_sm: int
    min_tiles: int = 1
    split_tiles: int = 0
    pairs: bool = True
    register_cap: int = 0
    snap_tiles: int = 1
    max_pieces: int = 0
    lockstep: bool = True
    piece_cost: int = 0
    cut: bool = True
    convert: bool = True

    @property
    def max_registers(self) -> int:
        """Registers a thread may use for `ctas_per_sm` programs to fit the 65,536 of a CUDA multiprocessor."""
        return min(255, 65536 // (32 * self.num_warps * self.ctas_per_sm) // 8 * 8)


#: Triton as (major, minor): the latest that the table was compiled with, which is also the first that 64 rows do not spill with
NEWEST = ROOMY = (3, 9)
BEFORE_ROOMY = (3, 8)
#: the first that compiles 64 rows for sm90: 3.3.1 refuses wgmma within a loop like this one's, 3.4 nobody has asked
WGMMA = (3, 5)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """family: a key of `SHARED_BYTES`. triton: the compiler's version, (major, minor)."""

    family: str
    num_sms: int
    triton: tuple[int, int] = NEWEST


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """What of a call decides its configuration. `element_bytes`: of a cache element; `latent`: an MLA cache, `packed`: the bytes
    of its rows if they carry their scales, else 0, `listed`: read by lists of slots; `token_scales`: a scale for each token and
    head.
    """

    group: int
    max_q_len: int
    head_dim: int
    v_head_dim: int
    element_bytes: int
    latent: bool = False
    packed: int = 0
    token_scales: bool = False
    listed: bool = False


#: families → shared memory of one multiprocessor in bytes (CUDA programming guide, table of compute capabilities; CDNA3 ISA: LDS)
SHARED_BYTES = {
    "sm80": 164 * 1024,
    "sm86": 100 * 1024,
    "sm90": 228 * 1024,
    "sm100": 228 * 1024,
    "sm120": 100 * 1024,
    "gfx942": 64 * 1024,
    "interpreter": 228 * 1024,
}


def family_of(capability: tuple[int, int], hip_arch: str = "") -> str:
    """The family of a device: (major, minor) on CUDA, the name ("gfx942:sramecc+…") on ROCm.

    Raises:
        ValueError: a CUDA device older than the oldest family.
    """
    if hip_arch:
        return "gfx942"
    major, minor = capability
    if major < 8:
        raise ValueError(f"device: expected compute capability 8.0 or later, given {major}.{minor}")
    if major == 8:
        return "sm80" if minor == 0 else "sm86"
    return {9: "sm90", 10: "sm100", 11: "sm100"}.get(major, "sm120")


class Entry(NamedTuple):
    """One row of the table, for blocks of at most `rows` query rows and tokens of at most `columns` key + value columns.

    since: the first Triton it holds for; of several rows for the same blocks the one with the latest that is there is taken.
    """

    rows: int
    columns: int
    block_n: int
    num_warps: int
    num_stages: int
    ctas_per_sm: int
    since: tuple[int, int] = (3, 0)


# Chosen by compile-only evidence (Triton 3.9.0, sm90 also 3.5.1, 3.6.0, 3.7.1 and 3.8.0: kernels/results/NOTES.md;
# tests/paged_decode/test_compile.py holds the rows for its own Triton to it): no spills, and
# ctas_per_sm programs resident for certain, by registers (255 a thread allow two programs of four warps; more get a cap) and by
# shared memory. That matters more than a third program: the grid is sized for it, and equal shares that do not all run at once
# would cost a second round. Among what is left: at least 64 KiB in flight, (num_stages - 1) · tile · ctas_per_sm, where shared
# memory allows it (4.45 TB/s · 0.8 µs / 132 multiprocessors needs 27), then the fewest instructions a token. Of sm90's rows seven
# were chosen by times on an H200 (kernels/results/NOTES.md): bf16 of 16 rows and 128, 256 and 512 columns, and of 32 rows and 256;
# 8 bits of 16 rows and 256 columns; both of plain bf16 latents. What sm100 shares of them nobody has timed.
_HOPPER_16 = (
    Entry(16, 128, 64, 4, 4, 3),
    Entry(16, 256, 64, 4, 3, 2),
    Entry(16, 512, 32, 4, 3, 2),
    Entry(16, 1024, 16, 4, 3, 2),
    Entry(32, 128, 64, 4, 4, 2),
    Entry(32, 256, 64, 4, 3, 2),
    Entry(32, 512, 32, 4, 3, 2),
    Entry(32, 1024, 16, 8, 3, 1),
    Entry(64, 128, 64, 4, 3, 2, since=WGMMA),
    Entry(64, 256, 64, 4, 3, 1, since=ROOMY),
    Entry(64, 256, 32, 4, 4, 2, since=WGMMA),  # tiles of 64 tokens spill before 3.9
)
_HOPPER_8 = (
    Entry(16, 128, 64, 4, 4, 3),
    Entry(16, 256, 64, 4, 3, 3),
    Entry(16, 512, 32, 4, 4, 2),
    Entry(16, 1024, 16, 4, 3, 2),
    Entry(32, 128, 64, 4, 4, 2),
    Entry(32, 256, 64, 4, 4, 2),
    Entry(32, 512, 32, 4, 3, 2),
    Entry(32, 1024, 16, 8, 3, 1),
    Entry(64, 128, 64, 4, 3, 2, since=WGMMA),
    Entry(64, 256, 32, 4, 4, 1, since=WGMMA),
    Entry(64, 512, 32, 8, 3, 1, since=ROOMY),
)
_AMPERE_16 = (
    Entry(16, 128, 64, 4, 4, 2),
    Entry(16, 256, 64, 4, 3, 2),
    Entry(16, 512, 32, 4, 3, 2),
    Entry(16, 1024, 16, 4, 3, 1),
    Entry(32, 128, 64, 4, 3, 2),
    Entry(32, 256, 32, 4, 4, 2),
    Entry(32, 512, 32, 4, 3, 1),
    Entry(32, 1024, 16, 8, 3, 1),
)
_AMPERE_8 = (
    Entry(16, 128, 64, 4, 4, 2),
    Entry(16, 256, 64, 4, 4, 2),
    Entry(16, 512, 32, 4, 4, 2),
    Entry(16, 1024, 16, 4, 3, 2),
    Entry(32, 128, 64, 4, 3, 2),
    Entry(32, 256, 32, 4, 4, 2),
    Entry(32, 512, 32, 4, 3, 1),
    Entry(32, 1024, 16, 8, 3, 1),
)
_NARROW_16 = (
    Entry(16, 128, 64, 4, 3, 2),
    Entry(16, 256, 32, 4, 3, 2),
    Entry(16, 512, 16, 4, 3, 2),
    Entry(16, 1024, 16, 4, 2, 1),
    Entry(32, 128, 64, 4, 3, 2),
    Entry(32, 256, 32, 4, 3, 2),
    Entry(32, 512, 16, 4, 3, 1),
    Entry(32, 1024, 16, 8, 2, 1),
)
_NARROW_8 = (
    Entry(16, 128, 64, 4, 4, 3),
    Entry(16, 256, 64, 4, 3, 2),
    Entry(16, 512, 32, 4, 3, 2),
    Entry(16, 1024, 16, 4, 3, 1),
    Entry(32, 128, 64, 4, 3, 2),
    Entry(32, 256, 32, 4, 3, 2),
    Entry(32, 512, 16, 4, 3, 1),
    Entry(32, 1024, 16, 8, 2, 1),
)
_CDNA_16 = (
    Entry(16, 128, 64, 4, 2, 2),
    Entry(16, 256, 32, 4, 2, 2),
    Entry(16, 512, 16, 4, 2, 2),
    Entry(16, 1024, 16, 4, 2, 1),
    Entry(32, 256, 32, 4, 2, 1),
    Entry(32, 1024, 16, 4, 2, 1),
)
_FLOAT32 = (Entry(16, 256, 16, 4, 2, 1), Entry(16, 1024, 16, 8, 1, 1), Entry(16, 2048, 16, 8, 1, 1))
#: families whose shared memory does not hold the 192 KiB of the last
_NARROW = ("sm80", "sm86", "sm120")
_TABLE: dict[str, dict[int, tuple[Entry, ...]]] = {
    "sm80": {2: _AMPERE_16, 1: _AMPERE_8},
    "sm86": {2: _NARROW_16, 1: _NARROW_8},
    "sm90": {2: _HOPPER_16, 1: _HOPPER_8},
    # 64 rows reach tcgen05 there, with accumulators in tensor memory, and spill on the way through registers
    "sm100": {2: tuple(e for e in _HOPPER_16 if e.rows <= 32), 1: _HOPPER_8},
    "sm120": {2: _NARROW_16, 1: _NARROW_8},
    "gfx942": {2: _CDNA_16, 1: _CDNA_16},
    "interpreter": {2: (Entry(64, 2048, 32, 4, 2, 1),), 1: (Entry(64, 2048, 32, 4, 2, 1),)},
}
# MLA: keys and values are one tile, columns are not counted twice; 1: 8-bit elements; 656, 584, 352: rows of as many bytes, which
# carry their scales (`LatentFormat`), the last two in blocks of 16 query rows alone: more spill
_KINDS = (2, 1, 656, 584, 352)
_LATENT_WIDE: dict[int, tuple[Entry, ...]] = {
    2: (Entry(16, 1024, 64, 8, 3, 1), Entry(32, 1024, 128, 8, 2, 1)),
    1: (Entry(16, 1024, 32, 4, 4, 2), Entry(32, 1024, 64, 8, 3, 1)),
    656: (Entry(16, 1024, 32, 4, 4, 2), Entry(32, 1024, 32, 8, 4, 1)),
    584: (Entry(16, 1024, 32, 4, 4, 2),),
    352: (Entry(16, 1024, 32, 4, 4, 2),),
}
_LATENT_AMPERE = (Entry(16, 1024, 32, 8, 3, 1), Entry(32, 1024, 32, 8, 3, 1))
_LATENT_NARROW = (Entry(16, 1024, 32, 4, 2, 1), Entry(32, 1024, 32, 8, 2, 1))


def _for_kinds(entries: tuple[Entry, ...]) -> dict[int, tuple[Entry, ...]]:
    """The same rows for every kind, those of 16 query rows alone for 584 and 352 bytes."""
    return {kind: entries if kind not in (584, 352) else entries[:1] for kind in _KINDS}


_LATENT: dict[str, dict[int, tuple[Entry, ...]]] = {
    # eight warps on tiles of 32 tokens would copy chunks of 64 bytes by 8
    "sm80": _for_kinds(_LATENT_AMPERE) | dict.fromkeys((584, 352), (Entry(16, 1024, 32, 4, 3, 1),)),
    "sm86": _for_kinds(_LATENT_NARROW),
    # rows of 656 bytes: tiles of 64 tokens and two programs take 68.6 instructions a token instead of 83.4, and half the barriers,
    # with as many bytes in flight; before 3.9 they spill (39). Those of 584 take 79.8 instead of 94.4; with lists of slots they
    # spill (31), and keep 32 tokens (`select_config`). Nobody has timed any of them
    "sm90": _LATENT_WIDE | {n: (*_LATENT_WIDE[n], Entry(16, 1024, 64, 4, 3, 2, since=ROOMY)) for n in (656, 584)},
    "sm100": _LATENT_WIDE,
    "sm120": _for_kinds(_LATENT_NARROW),
    "gfx942": dict.fromkeys(_KINDS, (Entry(32, 1024, 16, 4, 2, 1),)),
    "interpreter": dict.fromkeys(_KINDS, (Entry(32, 1024, 32, 4, 2, 1),)),
}
#: most programs for each item of an MLA cache: one program reads what the others leave, 32 KiB each with 16 heads, and more
#: would take longer over that than they save
LATENT_PIECES = 64

#: rows with their scale behind them are 4- or 8-byte aligned: four or two times as many copies, whose addresses do not fit the 168
#: registers of a third program (73 loads and stores of local memory). With tiles of 32 tokens they do before Triton 3.9, which
#: reads such rows without copies; on an H200 that takes 236 µs instead of 259 (8 x 32k of Llama-3.1-8B)
MOST_PROGRAMS_WITH_TOKEN_SCALES = 2

#: tokens of a fixed split: what a batch-invariant call cuts every sequence into
FIXED_SPLIT_TOKENS = 512


def table_entries(
    family: str, element_bytes: int, *, latent: bool, packed: int = 0, triton: tuple[int, int] = NEWEST
) -> tuple[Entry, ...]:
    """The rows that `select_config` chooses from with that Triton."""
    if element_bytes == 4:
        return _FLOAT32[:2] if family in _NARROW else _FLOAT32
    rows = _LATENT[family][packed or element_bytes] if latent else _TABLE[family][element_bytes]
    latest: dict[tuple[int, int], Entry] = {}
    for entry in sorted((e for e in rows if e.since <= triton), key=lambda e: e.since):
        latest[entry.rows, entry.columns] = entry
    return tuple(latest.values())


def config_of(entry: Entry, triton: tuple[int, int] = NEWEST) -> LaunchConfig:
    """A row of the table as a configuration.

    The cap is given even where it is the compiler's own limit of 255: left alone, ptxas prefers a few spills to a program less.
    """
    config = LaunchConfig(
        entry.rows,
        entry.block_n,
        entry.num_warps,
        entry.num_stages,
        entry.ctas_per_sm,
        min_tiles=2,
        snap_tiles=2,
        piece_cost=3,
    )
    return replace(config, register_cap=config.max_registers)


def select_config(
    shape: DecodeShape, family: str, *, batch_invariant: bool = False, triton: tuple[int, int] = NEWEST
) -> LaunchConfig:
    """The configuration of a decode call. It depends on no length and no batch size, so one compiled kernel serves them all.

    The row with the fewest columns that suffice, then with the fewest query rows that hold group · max_q_len; where none
    holds them all, the largest, and the rows become several blocks.

    Raises:
        ValueError: more columns than any row is for.
    """
    rows = max(16, next_power_of_2(shape.group * shape.max_q_len))
    columns = shape.head_dim if shape.latent else next_power_of_2(shape.head_dim) + next_power_of_2(shape.v_head_dim)
    known = min(triton, BEFORE_ROOMY) if shape.listed and shape.packed == SPLIT_ROW_BYTES else triton
    entries = table_entries(family, shape.element_bytes, latent=shape.latent, packed=shape.packed, triton=known)
    wide_enough = [e for e in entries if e.columns >= columns]
    if not wide_enough:
        raise ValueError(
            f"head_dim: expected at most {max(e.columns for e in entries)} padded key and value columns, given {columns}"
        )
    narrowest = [e for e in wide_enough if e.columns == min(w.columns for w in wide_enough)]
    entry = min(narrowest, key=lambda e: (e.rows < rows, abs(e.rows - rows)))
    config = config_of(entry, triton)
    config = replace(config, block_m=min(entry.rows, rows))
    if shape.latent:
        config = replace(config, max_pieces=LATENT_PIECES, piece_cost=0)
    if shape.token_scales:
        if family == "sm90" and (entry.rows, entry.columns) == (16, 256) and triton < NEWEST:
            config = replace(config, block_n=32, num_stages=4, ctas_per_sm=3)
        else:
            config = replace(config, ctas_per_sm=min(config.ctas_per_sm, MOST_PROGRAMS_WITH_TOKEN_SCALES))
        config = replace(config, register_cap=config.max_registers)
    if batch_invariant:
        config = replace(config, split_tiles=FIXED_SPLIT_TOKENS // config.block_n)
    return config


#: an indexer's keys against 64 queries or fewer: (both in e4m3, or not) → tokens of a tile, warps, stages, programs. No spills and
#: copies of 16 bytes for 32 and 64 heads (Triton 3.9), at least 64 KiB in flight on sm80, sm90 and sm100. Nobody has timed them
_INDEX: dict[str, tuple[LaunchConfig, LaunchConfig]] = {
    "sm80": (LaunchConfig(16, 64, 4, 4, 2), LaunchConfig(16, 64, 4, 4, 2)),
    "sm86": (LaunchConfig(16, 64, 4, 4, 2), LaunchConfig(16, 64, 4, 3, 2)),
    "sm90": (LaunchConfig(16, 128, 4, 4, 3), LaunchConfig(16, 64, 4, 4, 2)),
    "sm100": (LaunchConfig(16, 128, 4, 4, 2), LaunchConfig(16, 64, 4, 4, 2)),
    "sm120": (LaunchConfig(16, 64, 4, 4, 2), LaunchConfig(16, 64, 4, 3, 2)),
    "gfx942": (LaunchConfig(16, 64, 4, 2, 2), LaunchConfig(16, 64, 4, 2, 2)),
    "interpreter": (LaunchConfig(16, 32, 4, 2, 1), LaunchConfig(16, 32, 4, 2, 1)),
}
#: most heads of an indexer
MOST_INDEX_HEADS = 64


def index_config(family: str, *, narrow: bool) -> LaunchConfig:
    """The configuration of an indexer's call; narrow: queries and keys are both in e4m3."""
    config = _INDEX[family][0 if narrow else 1]
    return replace(config, register_cap=config.max_registers)
