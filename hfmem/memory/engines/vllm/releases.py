"""What vLLM's releases subtract from the share of a device, and their defaults.

Read from the wheels of 0.8.5, 0.9.2, 0.10.2, 0.11.0, 0.14.0 to 0.17.0, 0.19.0 to 0.31.0 and 0.33.0: `gpu_worker.py`
(`init_device`, `determine_available_memory`), `utils/mem_utils.py`, `engine/arg_utils.py`, `config/cache.py`, `config/vllm.py`,
`v1/sample/ops/`, `v1/worker/workspace.py`, `v1/worker/gpu/`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from hfmem.model.layers import KimiDeltaState, Mamba2State, RecurrentCache
from hfmem.records import dataclass
from hfmem.units import GIB, MIB

#: N of the release 0.N whose rules hold where none is named
LATEST: Final = 33
#: … of the last that keeps a window beside the tokens of one step
LAST_OF_ONE_STEP: Final = 25
#: `--max-num-batched-tokens` where neither the user nor a device tells
DEFAULT_MAX_NUM_BATCHED_TOKENS: Final = 8192
#: commits on the main branch, about, from which a build behaves like release 0.N: between logs that name both
_COMMITS: Final = (
    *((5000, 8), (7000, 9), (8000, 10), (9500, 11), (11000, 12), (12300, 13), (13300, 14), (13800, 15), (14300, 16)),
    *(
        (14900, 17),
        (15500, 18),
        (15900, 19),
        (16600, 20),
        (17200, 21),
        (17800, 22),
        (18300, 23),
        (18800, 24),
        (19200, 25),
    ),
    *((19600, 26), (20100, 27)),
)
_HUGE: Final = 160 * GIB
_LARGE: Final = 70 * GIB


class GraphSizes(NamedTuple):
    """How many batch sizes are captured in pieces around attention, and how many whole; the largest of each, in tokens."""

    pieces: int
    largest_piece: int
    whole: int
    largest_whole: int


@dataclass(frozen=True, slots=True)
class Release:
    """Rules of vLLM 0.`minor` under the V1 engine (0.8 and later). `flashinfer`: its sampler is FlashInfer's, which not all builds
    have until 0.15."""

    minor: int = LATEST
    flashinfer: bool = False

    @property
    def utilization(self) -> Fraction:
        """`gpu_memory_utilization` where it is not told."""
        return Fraction(92, 100) if self.minor >= 20 else Fraction(9, 10)

    @property
    def context_in_share(self) -> bool:
        """Whether all memory in use on the device counts (0.8); later only what has grown since the worker's first snapshot."""
        return self.minor <= 8

    @property
    def communicators_in_share(self) -> bool:
        """Whether that snapshot lies before NCCL is set up (until 0.10)."""
        return self.minor <= 10

    def graphs_in_share(self, v2_runner: bool) -> bool:
        """Whether CUDA graphs are estimated and subtracted: on from 0.20 (`VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS`), where the
        V2 runner estimated none until 0.28."""
        return self.minor >= (29 if v2_runner else 20)

    def v2_runner(self, *, moe: bool, hybrid: bool) -> bool:
        """Whether the V2 model runner serves such a model (`use_v2_model_runner`): dense ones from 0.25, all from 0.29."""
        return self.minor >= 29 or (self.minor >= 25 and not moe and not hybrid)

    @property
    def segments_count(self) -> bool:
        """Whether what the allocator holds of the device counts (`total_consumed`, from 0.27), and not only its blocks."""
        return self.minor >= 27

    @property
    def max_split(self) -> int | None:
        """The size from which blocks are not divided while weights are loaded (`_scoped_allocator_max_split`, from 0.21)."""
        return 20 * MIB if self.minor >= 21 else None

    def bytes_per_logit(self, v2_runner: bool, width: int = 2) -> int:
        """Bytes live per logit at the widest place of sampling, of logits `width` bytes wide.

        Until 0.16 they are sorted with 8-byte indices: the logits, their fp32 copy, values and indices sorted, and what sorting
        takes: 38, as logs of H100s, A6000s and RTX 4080s give to the third digit (0.9 to 0.15). From 0.17 a Triton kernel masks
        the fp32 copy in place, and FlashInfer does not sort either; probabilities and noise stand beside it (logs of 0.19 on
        H100s). The V2 runner needs neither, and in 0.27 to 0.31 profiles without the copy (`needs_logits_processing`).
        """
        if v2_runner:
            return width + (0 if 27 <= self.minor <= 31 else 4)
        return width + 4 + (32 if self.sorts else 8)

    @property
    def sorts(self) -> bool:
        """Whether top-k and top-p sort all logits (`topk_topp_triton.py` is there from 0.17)."""
        return self.minor <= 16 and not self.flashinfer

    def masks(self, v2_runner: bool) -> bool:
        """Whether a row of logits for each multiprocessor stands beside them (`_TRITON_BUFFER_CACHE`)."""
        return self.minor >= 32 if v2_runner else self.minor >= 17 and not self.flashinfer

    @property
    def keeps_workspaces(self) -> bool:
        """Whether the workspaces of experts stay when their layer has run (`v1/worker/workspace.py`, from 0.14)."""
        return self.minor >= 14

    @property
    def expert_chunk(self) -> int | None:
        """Tokens that a kernel for experts takes at once (`VLLM_FUSED_MOE_CHUNK_SIZE`, until 0.17), None for all of a step's."""
        return 32768 if self.minor <= 17 else None

    @property
    def steps_in_flight(self) -> int | None:
        """Engine steps whose tokens a window is kept beside: one until 0.25, then as today (None)."""
        return 1 if self.minor <= LAST_OF_ONE_STEP else None

    def exports_states(self, cache: RecurrentCache) -> bool:
        """Whether recurrent layers of that kind keep a checkpoint of their prefill (`num_prefill_checkpoint_blocks`): Kimi's from
        0.29, Mamba 2's from 0.32, gated delta nets from 0.33."""
        since = 29 if isinstance(cache, KimiDeltaState) else 32 if isinstance(cache, Mamba2State) else 33
        return self.minor >= since

    @property
    def caches_prefixes_of_states(self) -> bool:
        """Whether prefix caching is on by default for models with recurrent layers (`arg_utils.py`: off until 0.27, where hybrid
        models are said to support it from 0.26)."""
        return self.minor >= 28

    @property
    def full_graphs(self) -> bool:
        """Whether decoding has graphs of its own beside the piecewise ones (from 0.11)."""
        return self.minor >= 11

    @property
    def checks_all_stages(self) -> bool:
        """Whether one request is held, with the layers of all pipeline stages, against the memory of each (`get_kv_cache_configs`:
        global groups from 0.14 to 0.16; each worker's own in 0.11 and from 0.17; 0.12 and 0.13 were not read)."""
        return 14 <= self.minor <= 16

    def max_num_batched_tokens(self, memory_bytes: int, device: str = "", *, offline: bool = False) -> int:
        """The default by device: of the server, or of the `LLM` class (`offline`)."""
        name = device.lower()
        if self.minor >= 28 and memory_bytes >= _HUGE:
            return 16384
        if memory_bytes >= _LARGE and "a100" not in name and not _is_gb10(name):
            return 16384 if offline else 8192
        return 8192 if offline else 2048

    def max_num_seqs(self, memory_bytes: int | None, device: str = "") -> int:
        """The default by device: 1024 on those from 70 GiB that are no A100, else 256."""
        name = device.lower()
        large = memory_bytes is None or memory_bytes >= _LARGE
        return 1024 if large and "a100" not in name and not _is_gb10(name) else 256

    def graph_sizes(self, max_num_seqs: int, *, blackwell: bool = False, own: int | None = None) -> GraphSizes:
        """Which batch sizes are captured (`_set_cudagraph_sizes`, `SchedulerConfig.cuda_graph_sizes`); `own`: up to which a model's
        class has them, whatever the sequences (`models/config.py`)."""
        largest = 512
        if self.minor >= 10:
            largest = own or min(2 * max_num_seqs, 1024 if blackwell and self.minor >= LATEST else 512)
        step = 8 if self.minor <= 13 and not own else 16
        sizes = [size for size in (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, step)) if size <= largest]
        whole = [size for size in sizes if size <= max_num_seqs] if self.full_graphs else []
        return GraphSizes(len(sizes), sizes[-1], len(whole), whole[-1] if whole else 0)


def release_of(version: str | None) -> Release | None:
    """The release of a version text `0.N…`; of a build that counts commits (`0.1.dev20051+g…`) the one that it became, about. None:
    neither."""
    text = version or ""
    if built := re.match(r"v?0\.1\.dev(\d{4,6})\b", text):
        return Release(max((minor for commits, minor in _COMMITS if commits <= int(built[1])), default=7))
    match = re.match(r"v?0\.(\d{1,3})\.(?!dev)", text)
    return Release(int(match[1])) if match else None


def _is_gb10(name: str) -> bool:
    """GB10, by name from 0.32 on; before, NVML does not tell vLLM its memory (logs of 0.20 to 0.25: "FULL=35 (largest=256)")."""
    return "gb10" in name
