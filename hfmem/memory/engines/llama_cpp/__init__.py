"""llama.cpp's cache: cells allocated for the whole context at start, windowed layers in a smaller cache of their own.

Read from ggml-org/llama.cpp as vendored in llama-cpp-python 0.3.36 (October 2026), and compared with what it allocates for small
models of sixty architectures: `src/llama-context.cpp` (context rounded up to 256 cells), `src/llama-kv-cache.cpp` (K and V rows a
layer, no V under latent attention), `llama-kv-cache-iswa.cpp` (window + micro-batch, rounded up to 256), `llama-kv-cache-dsa.cpp`
and `-msa.cpp` (index keys), `-dsv4.cpp` (DeepSeek V4), `llama-memory-recurrent.cpp` and `llama-hparams.cpp` (fp32 states).
"""

from __future__ import annotations

from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.cache import decoding_kinds, num_dealt_layers
from hfmem.memory.engines.llama_cpp.cells import PAD, Formats, cells_of, formats_of, layer_bytes, row_bytes, state_bytes
from hfmem.memory.engines.llama_cpp.flash import runs_flash
from hfmem.memory.formats import GGML_BLOCKS
from hfmem.memory.placement import placement
from hfmem.memory.result import CacheBytes, LayerGroup, count_in
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import CompressedAttention, LatentAttention, SparseLatentAttention

NAME: Final = "llama.cpp"
VERSION: Final = "2026-10"
VENDORS: Final = frozenset({"nvidia", "amd", "apple", "intel"})
RUNTIME: Final = "compute buffer"
WEIGHT_FORMATS: Final = (("bf16", 16), ("q8_0", 8), ("q4_k_m", 4))
CACHE_FORMATS: Final = ("q8_0", "q4_0")
OWN_CLASSES: Final = False
HALVES_FP32: Final = False
DRAFTS_IN_POOL: Final = False
OLDEST: Final = None

#: sequences of one context (`LLAMA_MAX_SEQ` in `src/llama-cparams.h`)
_MOST_SEQS: Final = 256
#: families without an implementation
_NOT_SERVED: Final = frozenset(
    {
        *("Klear", "baichuan_m1", "bailing_moe_linear", "iquest_q1", "xverse_moe", "yuan"),
        "gigachat3_5",
        "whisper",
        "moonshine",
        "moonshine_streaming",
        "pix2struct",
        "pop2piano",
        "xlnet",
        "step5",
        "step5_vl",
        "moshi",
        "musicgen",
        "musicgen_decoder",
        "musicgen_melody",
        "musicgen_melody_decoder",
        "sdar",
        "sdar_moe",
        "jet_nemotron",
        "minicpm_sala",
        "emu3",
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
    """Bytes allocated for `num_seqs` slots of `context` tokens each (`--parallel`; with `unified` one cache for all of them).

    Devices hold runs of layers (`--split-mode layer`): `tp` and `pp` both count them. Layers that stay on the host keep their cache
    there.

    Raises:
        UnsupportedError: a model or format llama.cpp does not have, or more slots than it has sequences.
    """
    if arch.model_type in _NOT_SERVED:
        raise UnsupportedError(f"llama.cpp has no {arch.model_type} models")
    seqs = serving.num_seqs_per_replica
    if seqs > _MOST_SEQS:
        raise UnsupportedError(f"llama.cpp: n_seq_max must be <= {_MOST_SEQS}, not {seqs}")
    formats = formats_of(serving)
    _check_formats(arch, formats, serving.llama_cpp.flash_attention)
    kinds, num_layers = decoding_kinds(arch), num_dealt_layers(arch)
    one = cells_of(arch, serving, 1)
    held = cells_of(arch, serving, seqs)
    where = placement(NAME, num_layers, serving)
    on_stage, on_host = [0] * len(where.stages), 0
    groups = []
    for kind, indices in kinds.items():
        row, state = row_bytes(kind, formats), state_bytes(kind, arch)
        size = layer_bytes(kind, held, row, formats) * (1 if held.shared else seqs) + state * seqs
        groups.append(
            LayerGroup(
                kind,
                indices,
                row,
                one.of(kind),
                len(indices) * (layer_bytes(kind, one, row, formats) + state),
                len(indices) * state,
                size,
            )
        )
        on_devices = [count_in(indices, run) * size * serving.llama_cpp.kv_offload for run in where.stages]
        on_host += len(indices) * size - sum(on_devices)
        on_stage = [whole + own for whole, own in zip(on_stage, on_devices, strict=True)]
    return CacheBytes(
        engine=NAME,
        kv_dtype=formats.key,
        bytes=(sum(on_stage) + on_host) * serving.dp,
        bytes_per_rank=max(on_stage),
        bytes_per_seq=sum(group.bytes for group in groups),
        state_bytes_per_seq=sum(group.state_bytes for group in groups),
        layer_groups=tuple(groups),
        page_size=PAD,
        stage_bytes=tuple(on_stage),
        stage_layers=tuple((run,) if serving.llama_cpp.kv_offload else () for run in where.stages),
        host_bytes=on_host * serving.dp,
        value_dtype=None if formats.key == formats.value else formats.value,
    )


def _check_formats(arch: Architecture, formats: Formats, asked: str) -> None:
    """Refuse types of their own for keys and values where one row is both, and quantized values without flash attention.

    Raises:
        UnsupportedError: with llama.cpp's condition (`llama_init_from_model`).
    """
    one_row = LatentAttention | SparseLatentAttention | CompressedAttention
    if formats.key != formats.value and any(isinstance(kind, one_row) for kind in arch.kinds()):
        raise UnsupportedError(
            f"llama.cpp: {arch.model_type} models do not support different K ({formats.key}) and V ({formats.value}) cache types"
        )
    if formats.value in GGML_BLOCKS and not runs_flash(arch, asked, formats.key, formats.value):
        raise UnsupportedError("llama.cpp: quantized V cache requires flash_attn to be enabled")
