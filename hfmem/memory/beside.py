"""What an engine keeps on a rank beside the weights once they are loaded, and counts as theirs.

Read from vLLM 0.11 to 0.33: tables of rotations (`hfmem.memory.rotary`); `models/{qwen3_vl,qwen3_omni_moe_thinker}.py` (outputs of
the tower's inner layers, one buffer each for the tokens of a step); `models/{gemma3n_mm,gemma4_mm,gemma4_unified}.py` (a step's
inputs of each layer); `models/deepseek_v2.py` (`topk_indices_buffer`); `layers/attention/mla_attention.py`
(`process_weights_after_loading`: where a latent's second projection is quantized, both of its halves again in the model's dtype);
`models/deepseek_v4/nvidia/model.py` (of 0.20 to 0.33: the picks of a step's tokens, and their residual streams for a draft, which
until 0.25 are kept without one too); `models/{deepseek_v41,qwen4_exp}/nvidia/model.py`;
`v1/attention/backends/mla/flashinfer_mla.py` (up to 0.24, a workspace that is made where the module is imported, which choosing a
backend for latent attention does).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hfmem.checkpoint.tensors import TensorGroup
from hfmem.memory.cache import decoding_layers
from hfmem.memory.engines.vllm.classes import batched_tokens
from hfmem.memory.engines.vllm.qwen4_exp import QWEN4
from hfmem.memory.engines.vllm.releases import Release
from hfmem.memory.model_classes import through_transformers
from hfmem.memory.rotary import rotary_table_bytes
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import CompressedAttention, IndexedAttention, LatentAttention, SparseLatentAttention
from hfmem.units import MIB

#: model types that keep a step's residual streams for their draft
_STREAMS: Final = frozenset({"deepseek_v4", "deepseek_v41", "qwen4_exp"})
#: the last release that keeps DeepSeek V4's without a draft
_STREAMS_KEPT: Final = 25
_DEEPSTACK: Final = frozenset({"qwen3_vl", "qwen3_vl_moe", "qwen3_omni_moe"})
#: model types that keep a step's inputs of each layer, where the layers have such, and the table that these come from
_LAYER_INPUTS: Final = frozenset({"gemma3n", "gemma4", "gemma4_unified"})
_LAYER_TABLE: Final = "embed_tokens_per_layer.weight"
#: what is merged with the mixing of residual streams (`qwen4_exp/nvidia/hyperconnection.py`)
_MIXER: Final = "attn_hyper_connection.input_mix_weight_down.weight"
#: `FLASHINFER_MLA_WORKSPACE_BUFFER_SIZE`, of these releases
_WORKSPACE: Final = 128 * MIB
_WORKSPACE_RELEASES: Final = range(12, 25)
#: the projection that a latent is expanded by, and types that are no codes
_EXPANDS: Final = "kv_b_proj"
_PLAIN: Final = frozenset({"BF16", "F16", "F32"})


def kept_beside(
    arch: Architecture,
    groups: Iterable[TensorGroup],
    serving: Serving,
    release: Release | None = None,
) -> int:
    """Bytes on a rank, tables of rotations among them."""
    backend = serving.engine == "vllm" and through_transformers(arch)  # whose module rotates without a table
    found = 0 if backend else rotary_table_bytes(arch, serving.engine, release)
    if serving.engine == "vllm":
        found += (
            _deepstack(arch, serving)
            + _layer_inputs(arch, serving)
            + _streams(arch, serving, release or Release())
            + _qwen4(arch, serving)
        )
    caches = (cache for layer in decoding_layers(arch) for cache in layer.caches)
    latents = [cache for cache in caches if isinstance(cache, LatentAttention | SparseLatentAttention)]
    if latents:
        found += _latent(latents, arch, groups, serving, release or Release())
    return found


def _deepstack(arch: Architecture, serving: Serving) -> int:
    tower = arch.vision_tower
    if arch.model_type not in _DEEPSTACK or tower is None or serving.language_model_only:
        return 0
    return batched_tokens(arch, serving) * arch.hidden_size * tower.inner_outputs * 2


def _layer_inputs(arch: Architecture, serving: Serving) -> int:
    tables = (spec.shape[1] for spec in arch.tensors if spec.pattern.endswith(_LAYER_TABLE))
    return batched_tokens(arch, serving) * next(tables, 0) * 2 if arch.model_type in _LAYER_INPUTS else 0


def _streams(arch: Architecture, serving: Serving, release: Release) -> int:
    """What a step's tokens have of picked rows and of residual streams, each in one buffer."""
    kind = next((kind for kind in (arch.model_type, arch.text_type) if kind in _STREAMS), None)
    if kind is None:
        return 0
    picked = max((c.index_topk or 0 for c in arch.kinds() if isinstance(c, CompressedAttention)), default=0)
    drafts = serving.speculative_tokens > 0 or (kind == "deepseek_v4" and release.minor <= _STREAMS_KEPT)
    wide = (arch.residual_streams or 0) * arch.hidden_size * 2 if drafts else 0
    return batched_tokens(arch, serving) * (picked * 4 + wide)


def _qwen4(arch: Architecture, serving: Serving) -> int:
    """Qwen4-Exp's picks, a buffer of a step's tokens in each layer (a budget, the unfinished pool, a count), and the rows that its
    residual mixers are padded by, to 16."""
    if arch.model_type not in QWEN4:
        return 0
    layers = [layer for layer in decoding_layers(arch) if layer.stack == "decoder"]
    indexed = [c for layer in layers for c in layer.caches if isinstance(c, IndexedAttention)]
    picked = sum((c.index_topk or 0) + c.index_block for c in indexed) * 4
    streams = arch.residual_streams or 0
    rows = next((spec.shape[0] for spec in arch.tensors if spec.pattern.endswith(_MIXER)), 0) + streams
    return batched_tokens(arch, serving) * picked + len(layers) * 2 * (-rows % 16) * streams * arch.hidden_size * 2


def _latent(
    latents: list[LatentAttention | SparseLatentAttention],
    arch: Architecture,
    groups: Iterable[TensorGroup],
    serving: Serving,
    release: Release,
) -> int:
    whole = sum(c.num_heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank for c in latents) * 2 // serving.tp
    quantized = any(group.dtype not in _PLAIN for group in groups if _EXPANDS in group.pattern)
    found = whole // serving.pp if quantized else 0
    if serving.engine != "vllm":
        return found
    picked = max((c.index_topk for c in latents if isinstance(c, SparseLatentAttention)), default=0)
    found += batched_tokens(arch, serving) * picked * 4
    return found + (_WORKSPACE if release.minor in _WORKSPACE_RELEASES else 0)
