"""An indexer's scores as a line of `hfmem bench`: its keys, the gate that they pass first, the op as a launch.

Queries lie as engines hand them over: in e4m3 over keys in e4m3, else in the keys' dtype.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hfmem_kernels import _reference_index, index_logits, layout
from hfmem_kernels.benchmarks.gate import REPEATS, SHORT, Gate, sample
from hfmem_kernels.benchmarks.inputs import CHUNK
from hfmem_kernels.benchmarks.ours import Launch
from hfmem_kernels.traffic import Traffic, index_traffic

#: share of Σ |weight| · |q| · |k| that a score may be off by: fp32 sums of products and of heads, that are exact or rounded once
EXACT = 2.0**-15
#: tensor cores that multiply e4m3 add up with 14 bits or so
NATIVE = 2.0**-10


@dataclass(frozen=True, slots=True)
class IndexRow:
    """Keys of `lengths` tokens in pages of `page_size`; packed: e4m3 with a scale, in pages of whole `unit` bytes, else
    in `dtype`, bf16 or fp16."""

    heads: int
    dim: int
    lengths: tuple[int, ...]
    page_size: int
    packed: bool
    dtype: str = "bf16"
    unit: int = 16

    @property
    def query_dtype(self) -> torch.dtype:
        """Of queries, and of keys that are not packed."""
        if self.packed:
            return torch.float8_e4m3fn
        return torch.float16 if self.dtype == "fp16" else torch.bfloat16

    @property
    def pages(self) -> int:
        """Pages of all sequences."""
        return sum(layout.num_pages(n, self.page_size) for n in self.lengths)

    @property
    def traffic(self) -> Traffic:
        """Bytes and operations of the step."""
        return index_traffic(self.heads, self.dim, list(self.lengths), page_size=self.page_size, packed=self.packed)


@dataclass(frozen=True)
class IndexInputs:
    """The tensors of a row: keys, queries [batch, heads, dim] and weights [batch, heads] for each layer."""

    row: IndexRow
    sets: tuple[torch.Tensor, ...]
    queries: tuple[torch.Tensor, ...]
    weights: tuple[torch.Tensor, ...]
    page_table: torch.Tensor
    seq_lens: torch.Tensor


def allocate(row: IndexRow, device: torch.device | str) -> torch.Tensor:
    """One layer's keys, empty."""
    if row.packed:
        return layout.allocate_index(max(1, row.pages), row.page_size, row.dim, device, unit=row.unit)
    return torch.zeros(max(1, row.pages), row.page_size, row.dim, dtype=row.query_dtype, device=device)


def stored_bytes(keys: torch.Tensor) -> int:
    """Bytes of the tensor that holds a layer's keys."""
    return keys.untyped_storage().nbytes()


def build(row: IndexRow, empty: Sequence[torch.Tensor]) -> IndexInputs:
    """Random inputs in layers that `allocate` made, the same for the same row; pages are shuffled."""
    device = empty[0].device
    generator = torch.Generator(device).manual_seed(zlib.crc32(repr(row).encode()))
    order = torch.randperm(max(1, row.pages), generator=generator, device=device)
    for keys in empty:
        _fill(keys, generator)
    batch = len(row.lengths)

    def queries() -> torch.Tensor:
        made = torch.randn(batch, row.heads, row.dim, generator=generator, device=device)
        return made.to(row.query_dtype)

    return IndexInputs(
        row=row,
        sets=tuple(empty),
        queries=tuple(queries() for _ in empty),
        weights=tuple(torch.randn(batch, row.heads, generator=generator, device=device) for _ in empty),
        page_table=layout.page_table(list(row.lengths), row.page_size, order.tolist(), device),
        seq_lens=torch.tensor(row.lengths, dtype=torch.int32, device=device),
    )


def _fill(keys: torch.Tensor, generator: torch.Generator) -> None:
    """Normal numbers, a chunk of pages at a time, packed as the writer packs them."""
    packed = keys.dtype == torch.uint8
    dim = keys.shape[2] - (layout.SCALE_BYTES if packed else 0)
    step = max(1, CHUNK // (keys.shape[1] * dim))
    for start in range(0, keys.shape[0], step):
        part = keys[start : start + step]
        tokens = part.shape[0] * part.shape[1]
        values = torch.randn(tokens, dim, generator=generator, device=keys.device)
        if packed:
            codes, scales = _reference_index.pack_index_keys(values, power_of_two=True)
            _reference_index.store_index_keys(part, torch.arange(tokens, device=keys.device), codes, scales)
        else:
            part.copy_(values.view(part.shape))


def prepare(inputs: IndexInputs, seq_lens: torch.Tensor | None = None) -> Launch:
    """The op on the inputs; `seq_lens` instead of the row's own, none of them longer. It allocates nothing."""
    lengths = inputs.seq_lens if seq_lens is None else seq_lens
    columns = max(1, *inputs.row.lengths, 1)
    out = torch.full((len(inputs.row.lengths), columns), float("nan"), device=lengths.device)

    def launch(index: int) -> torch.Tensor:
        return index_logits(
            inputs.queries[index], inputs.sets[index], inputs.weights[index], inputs.page_table, lengths, out=out
        )

    return launch


def compare(inputs: IndexInputs, out: torch.Tensor, lengths: list[int], places: list[int]) -> Gate:
    """Scores of the first layer against the oracle; what lies behind a sequence's end has to be as it was, NaN."""
    page, worst, error, size = inputs.row.page_size, 0.0, 0.0, 0.0
    native = inputs.row.packed and out.device.type == "cuda" and torch.cuda.get_device_capability(out.device) >= (8, 9)
    share = NATIVE if native else EXACT
    for b in places:
        at = torch.arange(lengths[b], device=out.device)
        slots = inputs.page_table[b, at // page].long() * page + at % page
        keys = _reference_index.index_keys(inputs.sets[0], slots, torch.float64)
        q, weights = inputs.queries[0][b].double(), inputs.weights[0][b].double()
        expected = _reference_index.scores(q, keys, weights)
        bound = share * _reference_index.scores(q.abs(), keys.abs(), weights.abs())
        wrong = (out[b, : lengths[b]].double() - expected).abs().nan_to_num(torch.inf, torch.inf)
        if lengths[b]:
            worst = max(worst, float((wrong / bound).amax().item()))
        error, size = error + float(wrong.square().sum().item()), size + float(expected.square().sum().item())
        if not bool(out[b, lengths[b] :].isnan().all()):
            return Gate(False, torch.inf, torch.inf, f"sequence {b}: written behind its {lengths[b]} tokens")
    relative = (error / size) ** 0.5 if size else error**0.5
    return Gate(worst <= 1.0, worst, relative, "" if worst <= 1.0 else f"index keys: {worst:.2f} of the bound")


def check(inputs: IndexInputs, *, repeats: int = REPEATS) -> Gate:
    """Short lengths of all sequences, then the row's own of a few; repeated runs agree bit for bit."""
    own = list(inputs.row.lengths)
    short = [min(n, SHORT[b % len(SHORT)]) for b, n in enumerate(own)]
    there = torch.tensor(short, dtype=torch.int32, device=inputs.page_table.device)
    first = compare(inputs, prepare(inputs, there)(0), short, list(range(len(short))))
    if not first.passed:
        return first
    launch = prepare(inputs)
    out = launch(0).clone()
    found = compare(inputs, out, own, [b for b, _ in sample(own, 1)])
    for _ in range(repeats):
        if not torch.equal(launch(0).nan_to_num(), out.nan_to_num()):
            return Gate(False, found.worst, found.relative, "two runs differ: a race")
    return Gate(found.passed, max(first.worst, found.worst), max(first.relative, found.relative), found.reason)
