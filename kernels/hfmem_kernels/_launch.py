"""From checked tensors to one kernel launch: strides, column blocks, workspace, grid. No validation and no choice of impl here."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from hfmem_kernels._addresses import (
    PLAIN,
    cache_format,
    data_rows,
    extent,
    pages_a_tile,
    pairs_possible,
    rows_of,
    scale_extent,
    scale_mode,
    scale_strides,
)
from hfmem_kernels._heuristics import DeviceFacts, LaunchConfig, family_of, next_power_of_2

#: fewest latent columns that are read once for keys and values: a quarter of them in pairs are the 16 that tensor cores take.
#: Fewer, which only small test models have, are read as keys and again as values
SMALLEST_LATENT = 128
#: positions and windows up to here add up in int32
MOST_TOKENS = 1 << 30


@dataclass(frozen=True, slots=True)
class Workspace:
    """Scratch memory of the decode kernels, to be reused by any number of calls, one after the other.

    counters: int32, zero between calls (every call restores that). partials: float32, contents never matter.
    """

    counters: torch.Tensor
    partials: torch.Tensor

    @classmethod
    def empty(cls, num_slots: int, num_floats: int, device: torch.device | str) -> Workspace:
        """A workspace of at least the given capacity."""
        counters = torch.zeros(2 * num_slots, dtype=torch.int32, device=device)
        return cls(counters, torch.empty(num_floats, dtype=torch.float32, device=device))


@dataclass(frozen=True, slots=True)
class Columns:
    """How head dimensions are cut into power-of-two blocks: a key row into d1 + d2 columns, a value row into one block."""

    d1: int
    d2: int
    dv: int

    @classmethod
    def of(cls, head_dim: int, v_head_dim: int, *, pairs: bool, latent: bool, cut: bool = False) -> Columns:
        """80 → 64 + 16, 96 → 64 + 32, 192 → 128 + 64, 576 → 512 + 64; tensor cores want blocks of 16, of 32 if in pairs.

        cut: 128 → 64 + 64, 256 → 128 + 128, two products at a time instead of a longer one (`scores_of`).
        """
        smallest = 32 if pairs else 16
        below = next_power_of_2(head_dim + 1) // 2  # the largest power of two within
        if cut and below == head_dim >= 128 and not pairs:
            below //= 2
        d1 = v_head_dim if latent else max(smallest, below)
        rest = head_dim - d1
        d2 = max(smallest, next_power_of_2(rest)) if rest > 0 else 0
        return cls(d1, d2, max(smallest, next_power_of_2(v_head_dim)))


@dataclass(frozen=True, slots=True)
class Split:
    """Grid and workspace of one launch."""

    num_programs: int
    max_pieces: int
    num_slots: int
    partial_floats: int


def plan_split(config: LaunchConfig, num_items: int, max_tokens: int, num_sms: int, v_columns: int) -> Split:
    """The grid: `ctas_per_sm` programs a multiprocessor, or a fixed split of at most `max_tokens` tokens an item.

    Needs no value that lives on the device, so a captured CUDA graph stays valid whatever the sequences' lengths are.
    """
    if config.split_tiles:
        tiles = max(1, -(-max_tokens // config.block_n))
        max_pieces = -(-tiles // config.split_tiles)
        programs = num_items * max_pieces
        slots = programs
    else:
        max_pieces = 1
        programs = max(1, num_sms * config.ctas_per_sm)
        slots = 2 * programs
    row_floats = config.block_m * v_columns
    return Split(programs, max_pieces, slots, slots * (config.block_m * 2 + row_floats))


def token_limits(page_table: torch.Tensor, page_size: int, window: int, max_q_len: int) -> tuple[int, int]:
    """The longest sequence that a table [batch, pages] holds, and how many tokens of one are looked at."""
    capacity = min(page_table.shape[1] * page_size, MOST_TOKENS)
    return capacity, min(capacity, window + max_q_len - 1) if window else capacity


def merge_constants(rows: int, v_columns: int, config: LaunchConfig) -> dict[str, int]:
    """What one step of a merge takes: at most 64 fp32 a thread, or 32 where registers are capped; 16 or 8 pieces at once if
    they are that small, else 4.

    A step takes a round trip through L2 and its sums, some 0.7 µs on an H200, a second level a barrier and an atomic more, some
    1.5 µs. So up to four steps are one level: in two, groups of 8 pieces take a step or two, and so do the groups (`arrive`).
    """
    most = (64 if config.max_registers > 200 else 32) * 32 * config.num_warps
    fan = next((n for n in (16, 8) if n * rows * v_columns <= most), 4)
    chunk = max(16, min(v_columns, most // (fan * rows)))
    return {"ROWS": rows, "CHUNK": chunk, "FAN": fan, "ONE_LEVEL": 4 * fan}


@lru_cache(maxsize=256)
def lockstep_of(items: int, programs: int) -> int:
    """How many of a sequence's items (KV heads × blocks of rows) are worked on side by side, by as many programs: all, or the
    largest part that divides them and leaves less than a sixteenth of the programs idle.

    Heads of one token lie side by side in NHD caches, 2 KiB of eight heads: read at about the same time, they are one DRAM page.
    """
    return max(n for n in range(1, items + 1) if items % n == 0 and (n == 1 or programs % n * 16 < programs))


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors."""
    import triton

    return (
        bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else os.environ.get("TRITON_INTERPRET") == "1"
    )


def kernels_run_on(device: torch.device) -> bool:
    """Whether kernels can be launched on tensors of this device."""
    return device.type == "cuda" or interpreting()


def require_triton(impl: str, tensor: torch.Tensor) -> None:
    """Refuse, rather than fall back, where the kernels cannot run.

    Raises:
        ValueError: `impl` is neither "triton" nor "reference".
        RuntimeError: Triton is not installed, or `tensor` is not on a GPU and the interpreter is off.
    """
    if impl != "triton":
        raise ValueError(f'impl: expected "triton" or "reference", given {impl!r}')
    if tensor.device.type == "meta" or torch.compiler.is_compiling():
        return
    if importlib.util.find_spec("triton") is None:
        raise RuntimeError('impl="triton" needs the triton package; impl="reference" runs without it')
    if not kernels_run_on(tensor.device):
        raise RuntimeError(
            f'impl="triton" needs a GPU, the tensors are on {tensor.device}; impl="reference" runs anywhere'
        )


def triton_version() -> tuple[int, int]:
    """(major, minor) of the Triton that compiles here."""
    import triton

    major, minor, *_ = triton.__version__.split(".")
    return int(major), int(minor)


#: the "device" of CPU tensors: Triton's interpreter, which counts as four multiprocessors
STAND_IN = DeviceFacts(family="interpreter", num_sms=4)
_facts: dict[int, DeviceFacts] = {}


def device_facts(device: torch.device) -> DeviceFacts:
    """What the heuristics need to know of a device; queried once a device."""
    if device.type != "cuda":
        return STAND_IN
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _facts:
        properties = torch.cuda.get_device_properties(index)
        hip_arch = getattr(properties, "gcnArchName", "") if torch.version.hip else ""
        family = family_of((properties.major, properties.minor), hip_arch)
        _facts[index] = DeviceFacts(family=family, num_sms=properties.multi_processor_count, triton=triton_version())
    return _facts[index]


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current device, which is the one that Triton asks about and launches on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


_decoders: dict[torch.device, int] = {}


def decoder_of(device: torch.device) -> int:
    """How `decode_pair` decodes: 0 plain Triton, 1 PTX, 2 PTX with the fp8 conversion that sm_89 brought. Asked once a GPU."""
    import triton

    if device in _decoders:
        return _decoders[device]
    if interpreting():
        return 0
    with current(device):
        target = triton.runtime.driver.active.get_current_target()
    decoder = 0 if target.backend != "cuda" else 2 if target.arch >= 89 else 1
    if device.type == "cuda":
        _decoders[device] = decoder
    return decoder


def launch_decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    page_table: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    cu_q: torch.Tensor | None,
    max_q_len: int,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    workspace: Workspace,
    scale: float,
    window: int,
    softcap: float,
    sinks: torch.Tensor | None,
    alibi_slopes: torch.Tensor | None,
    k_scale: torch.Tensor | None,
    v_scale: torch.Tensor | None,
    v_factor: float,
    kv_lora_rank: int,
    config: LaunchConfig,
    num_sms: int,
    by_slot: bool = False,
    warmup: bool = False,
) -> Any:
    """Launch (or, with `warmup`, only compile) the decode kernel.

    q, out: [batch, q_len, heads, dim], or [tokens, heads, dim] with `cu_q` [batch + 1]; caches [pages, page, kv heads, dim].
    by_slot: `page_table` lists the slots of each sequence's tokens, one a token, and `seq_lens` says how many.
    """
    from hfmem_kernels._kernels import decode_kernel

    batch = seq_lens.shape[0]
    _, page_size, num_kv_heads, head_dim = k_cache.shape
    latent = kv_lora_rank >= SMALLEST_LATENT
    packed_latent = k_cache.shape[-1] if k_cache.dtype == torch.uint8 else 0
    v_head_dim = kv_lora_rank or v_cache.shape[-1]
    group = q.shape[-2] // num_kv_heads
    m_blocks = -(-group * max_q_len // config.block_m)
    items = num_kv_heads * m_blocks
    kind = cache_format(k_cache)
    pairs = kind != PLAIN and config.pairs and pairs_possible(k_cache, v_cache)
    cut = config.cut and config.block_m == 16
    columns = Columns.of(head_dim, v_head_dim, pairs=pairs, latent=latent, cut=cut)
    capacity, max_tokens = token_limits(page_table, 1 if by_slot else page_size, window, max_q_len)
    split = plan_split(config, batch * items, max_tokens, num_sms, columns.dv)

    # few sizes, so that few kernels are compiled: a warp, four, and what longer batches are scanned in
    block_b = 32 if batch <= 32 or config.split_tiles else 128 if batch <= 128 else 1024
    rows = config.block_m if m_blocks > 1 else min(config.block_m, next_power_of_2(group * max_q_len))
    merge_step = merge_constants(rows, columns.dv, config)

    if packed_latent:
        k_cache = v_cache = data_rows(k_cache)
    k_rows = rows_of(k_cache, pairs or packed_latent > 0)
    v_rows = k_rows if latent else rows_of(v_cache, pairs)
    state_floats = split.num_slots * config.block_m * 2
    varlen = cu_q is not None
    q_strides = [0, *q.stride()] if varlen else list(q.stride())
    out_strides = [0, *out.stride()] if varlen else list(out.stride())
    lse_strides = [0, 0, 0] if lse is None else ([0, *lse.stride()] if varlen else list(lse.stride()))
    nothing = workspace.counters  # a pointer for the arguments that this launch does not read
    arguments = [
        q, k_rows.base, v_rows.base, page_table, seq_lens, cu_q if varlen else nothing, out, nothing if lse is None else lse,
        nothing if sinks is None else sinks, nothing if alibi_slopes is None else alibi_slopes,
        nothing if k_scale is None else k_scale, nothing if v_scale is None else v_scale,
        workspace.partials[state_floats:], workspace.partials, workspace.counters,
        batch, max_q_len, window, capacity, split.num_slots, split.max_pieces, scale, softcap, v_factor,
        k_rows.offset, v_rows.offset, *q_strides, k_rows.page, k_rows.token, k_rows.head, k_rows.dim,
        v_rows.page, v_rows.token, v_rows.head, v_rows.dim, page_table.stride(0), *out_strides, *lse_strides,
        *scale_strides(k_scale), *scale_strides(v_scale),
    ]  # fmt: skip
    constants = {
        "HEADS": items,
        "LOCKSTEP": lockstep_of(items, split.num_programs) if config.lockstep and not config.split_tiles else 1,
        "GROUP": group, "PAGE": page_size, "DK": head_dim, "DV": v_head_dim, "D1": columns.d1, "D2": columns.d2,
        "DVP": columns.dv, "FORMAT": kind, "PAIRS": pairs, "UNIT_K": k_rows.unit, "UNIT_V": v_rows.unit,
        "SCALES": scale_mode(k_scale), "V_SCALES": scale_mode(v_scale), "LATENT": latent, "VARLEN": varlen,
        "HAS_WINDOW": window > 0,
        "HAS_SOFTCAP": softcap > 0.0, "HAS_ALIBI": alibi_slopes is not None, "HAS_SINKS": sinks is not None,
        "HAS_LSE": lse is not None, "M_BLOCKS": m_blocks, "BLOCK_M": config.block_m, "BLOCK_N": config.block_n,
        "BLOCK_B": block_b, "ONE_SCAN": batch <= block_b or config.split_tiles > 0, "SPLIT_TILES": config.split_tiles,
        "MIN_TILES": config.min_tiles, "SNAP": config.snap_tiles, "MAX_PIECES": config.max_pieces,
        "PIECE_COST": config.piece_cost, **merge_step,
        "DECODER": min(decoder_of(q.device), 2 if config.convert else 1),
        "PAGES": -1 if by_slot else pages_a_tile(page_size, config.block_n, window),
        "SAME_STRIDES": (k_rows.page, k_rows.token, k_rows.unit) == (v_rows.page, v_rows.token, v_rows.unit),
        "SAME_SCALES": scale_strides(k_scale)[:2] == scale_strides(v_scale)[:2],
        "WIDE_SCALES": max(scale_extent(k_scale), scale_extent(v_scale)) >= 2**31,
        "WIDE": max(extent(k_cache, k_rows), extent(v_cache, v_rows)) >= (2**30 if packed_latent else 2**31), "CUT": cut,
        "PACKED_LATENT": packed_latent,
    }  # fmt: skip
    return run(decode_kernel, (split.num_programs,), arguments, constants, config, warmup)


def run(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: list[Any],
    constants: dict[str, Any],
    config: LaunchConfig,
    warmup: bool,
) -> Any:
    """Launch a `@triton.jit` function with the options of `config`."""
    options: dict[str, Any] = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
    if config.register_cap and constants["DECODER"]:  # ptxas understands it, nothing else does
        options["maxnreg"] = config.register_cap
    with current(arguments[0].device):
        return kernel.run(*arguments, grid=grid, warmup=warmup, **constants, **options)
