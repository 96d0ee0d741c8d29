"""What a rank needs beside weights and cache: activations, CUDA graphs, engine buffers, the device's context.

But for what the loaded weights take beside themselves, nothing here is exact. Each item says what it is reckoned from and how far
it may be off; the constants come from logs of real servers, named where they stand. `flat_overhead` is the articles' rule instead:
a share of weights and cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Final, Literal, NamedTuple

from hfmem.memory import engines
from hfmem.memory.activations import Peak, Sampler, forward_bytes, peak
from hfmem.memory.encoder import EncoderProfile, encoder_profile
from hfmem.memory.engines.vllm.classes import batched_tokens, pools
from hfmem.memory.engines.vllm.releases import DEFAULT_MAX_NUM_BATCHED_TOKENS, GraphSizes, Release
from hfmem.memory.expert_workspaces import ExpertFormat, element_bytes, keeps_workspaces
from hfmem.memory.graphs import graph_memory
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component
from hfmem.model.layers import RecurrentCache
from hfmem.records import dataclass
from hfmem.remembered import remembered
from hfmem.units import GIB, counted, format_bytes

#: growth outside PyTorch while vLLM profiles, on one device: 0.02 GiB on RTX 20 to 50 cards, 0.03 on A6000
_ENGINE_ALONE: Final = (GIB // 100, GIB * 4 // 100, GIB * 7 // 10)
#: … on Hopper, by the releases up to which it holds: 0.07 GiB on H100s (0.10), 0.13 (0.11), 0.24 to 0.26 for 16 models (0.19), in
#: which half a GiB more where libraries are compiled meanwhile
_ENGINE_HOPPER_ALONE: Final = ((10, GIB * 7 // 100), (13, GIB * 13 // 100), (1 << 30, GIB // 4))
#: … with NCCL's channels and the fused all-reduce's workspace. Hopper: 2.1 to 2.4 GiB on four makers' H100s at TP 2 to 8 (0.9 to
#: 0.19), 1.8 at TP 4, 1.4 on H200s at TP 2 and without compiling, 0.4 on H100s at TP 2 (0.11), 0.1 on GH200s
_ENGINE_HOPPER: Final = (GIB * 5 // 100, GIB * 21 // 10, GIB * 25 // 10)
#: … over other links: 1.0 to 1.2 GiB on B200s at TP 2 to 8, 0.95 on B300s at TP 4
_ENGINE_LINKED: Final = (GIB // 10, GIB, GIB * 15 // 10)
#: … over PCIe: 0.08 GiB on RTX 3090s, 0.15 on T4s at TP 2, 0.21 on L40S at TP 4; 1.5 on RTX PRO 6000s at TP 4
_ENGINE_UNLINKED: Final = (GIB * 5 // 100, GIB // 4, GIB * 15 // 10)
#: … where the device's memory is the host's, whose free memory vLLM takes instead (`mem_utils.py`): 1.0 to 3.3 GiB in six of seven
#: starts on DGX Sparks; in one the host gave 4 GiB back
_ENGINE_SHARED: Final = (GIB, GIB * 2, GIB * 35 // 10)
_SHARES_MEMORY: Final = "gb10"
#: batches up to which vLLM captures graphs of a model of this type, in tokens (`models/config.py`, from 0.10)
_OWN_GRAPHS: Final = {"gpt_oss": 1024}
#: the driver's context and loaded kernels, which no allocator sees
_CONTEXT: Final = (GIB // 4, GIB * 45 // 100, GIB * 7 // 10)
#: … and, with several ranks, what NCCL takes when it is set up
_CONTEXT_RANKS: Final = (GIB * 4 // 10, GIB * 9 // 10, GIB * 2)
#: makers of devices that run CUDA's kernels, ported or not; "any": a size alone is given
_CUDA: Final = frozenset({"nvidia", "amd", "any"})


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one rank, with the band they are expected in. `in_budget`: the engine takes it from the share of memory it was given
    (`gpu_memory_utilization`); else it lies outside."""

    bytes: int
    low: int
    high: int
    source: str
    grade: Literal["derived", "estimated"] = "estimated"
    in_budget: bool = True


@dataclass(frozen=True, slots=True)
class Host:
    """What a rank runs on, as far as runtime memory depends on it: the device's memory, name and maker, and whether devices talk
    over links of their own (NVLink, Infinity Fabric); None: not known."""

    memory_bytes: int | None = None
    name: str = ""
    linked: bool | None = None
    vendor: str = "any"


@dataclass(frozen=True, slots=True)
class LoadedExtra:
    """What loaded weights take beside themselves: rotary tables, and what the allocator's blocks and segments add."""

    tables: int = 0
    blocks: int = 0
    segments: int = 0


def together(items: Iterable[tuple[int, int, int]]) -> tuple[int, int, int]:
    """(low, middle, high) of independent estimates added up: their distances from the middle add as squares."""
    parts = tuple(items)
    middle = sum(size for _, size, _ in parts)
    below = math.sqrt(sum((size - low) ** 2 for low, size, _ in parts))
    above = math.sqrt(sum((high - size) ** 2 for _, size, high in parts))
    return int(middle - below), middle, int(middle + above)


def flat_overhead(weights_bytes: int, cache_bytes: int, share: Fraction) -> Estimate:
    """The articles' rule: `share` of weights and cache together (10 % as a rule), for everything else."""
    size = (weights_bytes + cache_bytes) * share
    value = -(-size.numerator // size.denominator)
    return Estimate(value, value, value, f"flat rule: {float(share * 100):g} % of weights and cache")


def estimate_runtime(
    arch: Architecture,
    serving: Serving,
    *,
    extra: LoadedExtra | None = None,
    host: Host | None = None,
    release: Release | None = None,
    experts: ExpertFormat = "plain",
    graphs: GraphSizes | None = None,
    encoder_tokens: int | None = None,
    build: int | None = None,
    outputs: int | None = None,
) -> dict[str, Estimate]:
    """Runtime memory of the most loaded rank, by name.

    Args:
        extra: what the loaded weights take beside themselves.
        host: the device, which decides defaults.
        build, outputs: of llama.cpp's build (`hfmem.memory.compute_buffer`).
        release: vLLM's, where it is an older one.
        experts: as in `hfmem.memory.activations.peak`.
        graphs: what vLLM captures, where a log says it.
        encoder_tokens: of the encoder's cache, where a log says them; 0: the encoder is not profiled.
    """
    match engines.engine(serving.engine).RUNTIME:
        case "compute buffer":
            from hfmem.memory.compute_buffer import compute_buffer  # with llama.cpp's rules, which others do not need

            return {
                "activations_bytes": _band(
                    *compute_buffer(arch, serving, build, outputs, cuda=host is None or host.vendor in _CUDA)
                ),
                "context_bytes": _item(_CONTEXT, "CUDA context", outside=True),
            }
        case "forward":
            forward = forward_bytes(arch, serving.context * serving.num_seqs_per_replica, 1)
            return {
                "activations_bytes": _band(
                    forward, 0.6, 2.5, "prefill of the whole prompt: tokens × widest live tensors"
                ),
                "context_bytes": _item(_CONTEXT, "CUDA context", outside=True),
            }
        case "none":
            return {}
        case "server":
            return _server(
                arch,
                serving,
                extra or LoadedExtra(),
                host or Host(),
                release or Release(),
                experts,
                graphs,
                encoder_tokens,
            )


def engine_seqs(serving: Serving, host: Host, release: Release) -> int:
    """vLLM's `max_num_seqs`: as set, else the device's default within the tokens of a step that were set (`arg_utils.py`:
    `_set_default_max_num_seqs_and_batched_tokens_args`), or as many sequences as are asked for."""
    default = release.max_num_seqs(host.memory_bytes, host.name)
    if serving.engine == "vllm":
        default = min(default, serving.max_num_batched_tokens or default)
    return serving.max_num_seqs or max(default, serving.num_seqs_per_replica)


def _server(
    arch: Architecture,
    serving: Serving,
    extra: LoadedExtra,
    host: Host,
    release: Release,
    experts: ExpertFormat,
    graphs: GraphSizes | None,
    encoder_tokens: int | None,
) -> dict[str, Estimate]:
    if serving.engine == "vllm":
        tokens, pooling = batched_tokens(arch, serving), pools(arch, serving)
    else:
        tokens, pooling = serving.max_num_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS, serving.pooling
    sees = not serving.language_model_only and encoder_tokens != 0 and _has_tower(arch)
    tower = arch.vision_tower if sees else None
    encoder = None if tower is None else encoder_profile(tower, tokens, encoder_tokens)
    step = _Step(
        tokens,
        engine_seqs(serving, host, release),
        serving.tp,
        serving.pp,
        serving.eager,
        pooling,
        serving.compute_capability,
        graphs,
        serving.engine,
        keeps_workspaces(arch, serving, release, experts),
    )
    return dict(_estimates(arch, step, extra, host, release, experts, sees, encoder))


@remembered
def _has_tower(arch: Architecture) -> bool:
    return any(spec.component is Component.VISION for spec in arch.tensors)


class _Step(NamedTuple):
    """What a serving engine's own memory depends on of how it serves: not on the context, nor on sequences within `set_seqs`."""

    tokens: int
    set_seqs: int
    tp: int
    pp: int
    eager: bool
    pooling: bool
    compute_capability: int
    graphs: GraphSizes | None
    engine: str
    keeps_workspaces: bool


@remembered
def _estimates(
    arch: Architecture,
    step: _Step,
    extra: LoadedExtra,
    host: Host,
    release: Release,
    experts: ExpertFormat,
    sees: bool,
    encoder: EncoderProfile | None,
) -> dict[str, Estimate]:
    """The items of `_server`; `sees`: images pass through an encoder, whose profile may not be known."""
    hybrid = any(isinstance(cache, RecurrentCache) for cache in arch.kinds())
    v2 = step.engine == "vllm" and release.v2_runner(moe=bool(arch.num_experts), hybrid=hybrid)
    per_logit = release.bytes_per_logit(v2, element_bytes(arch))
    found = peak(
        arch,
        tokens=step.tokens,
        seqs=min(step.set_seqs, step.tokens),
        tp=step.tp,
        sampler=Sampler(0) if step.pooling else Sampler(per_logit, release.masks(v2)),
        encoder=encoder,
        experts=experts,
        keeps_workspaces=step.keeps_workspaces,
        expert_chunk=release.expert_chunk,
        compute_capability=step.compute_capability,
    )
    if sees and encoder is None:
        found = Peak(found.bytes, found.low, 2.5, f"{found.source}; the encoder may need more")
    several = step.tp * step.pp > 1
    items: dict[str, Estimate] = {}
    if extra != LoadedExtra():
        items["loading_bytes"] = _loading(extra, release)
    items["activations_bytes"] = _band(found.bytes, found.low, found.high, found.source)
    if not step.eager:
        items["cuda_graph_bytes"] = _graphs(arch, step, host, release, v2)
    counted = step.set_seqs if v2 and release.segments_count else 0
    items["engine_bytes"] = _engine(arch, several, host, release, step.compute_capability // 10 == 9, counted)
    context = _CONTEXT_RANKS if several and not release.communicators_in_share else _CONTEXT
    words = "CUDA context, kernels and NCCL" if context is _CONTEXT_RANKS else "CUDA context and kernels"
    items["context_bytes"] = _item(context, words, outside=not release.context_in_share)
    return items


def _loading(extra: LoadedExtra, release: Release) -> Estimate:
    rounding = extra.segments if release.segments_count else extra.blocks
    size = extra.tables + rounding
    parts = (("rotary tables", extra.tables), ("rounding of PyTorch's allocator", rounding))
    said = [f"{name} {format_bytes(part)}" for name, part in parts if part]
    return Estimate(size, size, size, ", ".join(said) or "nothing beside the weights", "derived")


def _graphs(arch: Architecture, step: _Step, host: Host, release: Release, v2_runner: bool) -> Estimate:
    capability = step.compute_capability
    blackwell = capability // 10 == 10 and host.memory_bytes is not None
    own = min(_OWN_GRAPHS[arch.model_type], step.tokens) if arch.model_type in _OWN_GRAPHS else None
    sizes = step.graphs or release.graph_sizes(min(step.set_seqs, step.tokens), blackwell=blackwell, own=own)
    found = graph_memory(arch, release, sizes, tp=step.tp, pp=step.pp, compute_capability=capability)
    return Estimate(found.bytes, found.low, found.high, found.source, in_budget=release.graphs_in_share(v2_runner))


def _engine(
    arch: Architecture, several: bool, host: Host, release: Release, hopper: bool, counted_seqs: int
) -> Estimate:
    """Growth outside PyTorch, and the V2 runner's counts of each sequence's words (4 bytes, and a bit for the prompt's)."""
    sizes, source = _ENGINE_ALONE, "library buffers, from server logs"
    if _SHARES_MEMORY in host.name.lower() and not several:
        sizes, source = _ENGINE_SHARED, "what the host's free memory loses beside it, from server logs"
    if hopper and not several:
        middle = next(size for last, size in _ENGINE_HOPPER_ALONE if release.minor <= last)
        sizes = (sizes[0], middle, sizes[2])
    if several:
        linked = host.linked is not False
        sizes = (_ENGINE_HOPPER if hopper else _ENGINE_LINKED) if linked else _ENGINE_UNLINKED
        source = f"NCCL and library buffers {'over NVLink' if linked else 'over PCIe'}, from server logs"
    counts = counted_seqs * (4 * arch.vocab_size + -(-arch.vocab_size // 32) * 4)
    if counts:
        source += f"; counts of {counted(counted_seqs, 'sequence')} × {arch.vocab_size:,} words"
    low, middle, high = (size + counts for size in sizes)
    return Estimate(middle, low, high, source)


def _band(size: int, low: float, high: float, source: str) -> Estimate:
    return Estimate(size, int(size * low), int(size * high), source)


def _item(sizes: tuple[int, ...], source: str, *, outside: bool = False) -> Estimate:
    low, middle, high = sizes
    return Estimate(middle, low, high, source, in_budget=not outside)
