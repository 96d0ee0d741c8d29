"""From stored tensors to logical ones: a GPTQ checkpoint of an 8 B model has 8.03 B parameters, whatever its files hold.

`logical_groups` returns one group for each kind of weight as the unquantized model names it, with its scales, zeros
and indices counted into its bytes and not into its elements. What no layout explains is counted as it is stored, and
`summarize` says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hfmem.checkpoint.layouts import recognize
from hfmem.checkpoint.logical import LogicalGroup, Part
from hfmem.checkpoint.modules import Module, modules
from hfmem.checkpoint.quantization_config import Quantization, parse_quantization
from hfmem.checkpoint.tensors import Box, Checkpoint, TensorGroup
from hfmem.dtypes import BLOCKS
from hfmem.records import dataclass, replace

__all__ = [
    "BUFFER_SUFFIXES",
    "LogicalGroup",
    "Quantization",
    "QuantizationSummary",
    "is_buffer",
    "logical_groups",
    "parse_quantization",
    "summarize",
]

#: last components of persistent buffers: stored, loaded, and no parameters of the model
BUFFER_SUFFIXES: Final = (
    "inv_freq",
    "original_inv_freq",
    "e_score_correction_bias",
    "final_logits_bias",
    "masked_bias",
    "position_ids",
    "token_type_ids",
    "cos_cached",
    "sin_cached",
    "num_batches_tracked",
    "running_mean",
    "running_var",
    "relative_position_index",
    "freqs_cis",
    "layer_scalar",  # Gemma 4
    "std_bias",
    "std_scale",
    "tid2eid",  # DeepSeek-V4's hash routing
    "balancing_biases",  # Ernie 4.5
    "cluster_usage",  # codec codebooks
    "embed_sum",
    "initialized",
    "global_mean",  # Phi-4-multimodal audio
    "global_invstd",
)
# GPT-2's and GPT-NeoX's causal masks are called `bias` like a real one; four axes of which the first two are 1 are a
# mask
_MASK_PARENTS: Final = ("attn.bias", "attention.bias", "attn.attention.bias")

# GGUF stores the frequencies of scaled rotary embeddings
_GGUF_ROPE: Final = ("rope_freqs.", "rope_factors_")

# scales of activations and of the KV cache that stand alone, beside no weight
_LONE_SCALES: Final = (
    *("k_scale", "v_scale", "q_scale", "kv_scale", "prob_scale", "input_scale", "output_scale", "weight_scale"),
    *("input_global_scale", "k_zero_point", "v_zero_point", "activation_scale", "k_bmm_quantizer._amax"),
)
# dtypes that hold packed codes when no rule explains them
_PACKED: Final = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "F4"})


@dataclass(frozen=True, slots=True)
class QuantizationSummary:
    """What the tensors show. `recognized` is False where packed tensors remain that no layout explains.

    `quantized_*` and `overhead_bytes` (scales, zeros, indices) speak of the quantized weights; `plain_*` of the rest.
    """

    method: str
    bits: int | None
    group_size: int | None
    block: tuple[int, int] | None
    recognized: bool
    quantized_elements: int
    quantized_bytes: int
    overhead_bytes: int
    plain_elements: int
    said: Quantization | None

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of one quantized weight, scales included."""
        return 8 * self.quantized_bytes / self.quantized_elements if self.quantized_elements else 0.0


def is_buffer(pattern: str, shape: tuple[int, ...]) -> bool:
    """Whether a stored tensor is a persistent buffer and no parameter."""
    leaf = pattern.rpartition(".")[2]
    if leaf in BUFFER_SUFFIXES or pattern.startswith(_GGUF_ROPE):
        return True
    return pattern.endswith(_MASK_PARENTS) and len(shape) == 4 and shape[:2] == (1, 1)


def logical_groups(
    stored: Checkpoint | Iterable[TensorGroup], said: Quantization | None = None
) -> tuple[LogicalGroup, ...]:
    """The weights that the stored groups make up, in order of first appearance; no byte is left out and none counted twice.

    `said` is what the configuration files say, if they do.
    """
    found: list[LogicalGroup] = []
    for module in modules(stored.groups if isinstance(stored, Checkpoint) else stored):
        found += _logical(module, said)
    if said is not None or any(group.method for group in found):
        found = [_without_lone_scales(group) for group in found]
    return tuple(found)


def _logical(module: Module, said: Quantization | None) -> list[LogicalGroup]:
    # sections speak of modules by number; tensors of one shape are stored alike, so the first one's name stands for all
    name = module.base
    for values in module.boxes[0]:
        name = name.replace("{}", str(values[0]), 1)
    layout = recognize(module.leaves, name, said)
    out: list[LogicalGroup] = []
    if layout is not None:
        parts = tuple(module.leaves[leaf] for leaf in layout.leaves)
        out.append(
            LogicalGroup(
                module.weight,
                parts[0].dtype,
                layout.shape if layout.shape is not None else (layout.elements,),
                module.boxes,
                parts,
                layout.method,
                layout.bits,
                layout.group_size,
                layout.block,
                layout.shape is not None,
            )
        )
    for leaf, part in module.leaves.items():
        if layout is None or leaf not in layout.leaves:
            out.append(_as_stored(part, module.boxes))
    return out


def _as_stored(part: Part, boxes: tuple[Box, ...]) -> LogicalGroup:
    parameter = not is_buffer(part.pattern, part.shape)
    if part.dtype not in BLOCKS:
        return LogicalGroup(part.pattern, part.dtype, part.shape, boxes, (part,), parameter=parameter)
    size, num = BLOCKS[part.dtype]
    return LogicalGroup(
        part.pattern, part.dtype, part.shape, boxes, (part,), "gguf", 8 * num // size, size, parameter=parameter
    )


def _without_lone_scales(group: LogicalGroup) -> LogicalGroup:
    if group.method is None and group.pattern.endswith(_LONE_SCALES) and group.elements <= 1:
        return replace(group, shape=(0,), parameter=False)
    return group


def summarize(groups: Iterable[LogicalGroup], said: Quantization | None = None) -> QuantizationSummary | None:
    """What is quantized and how, None for a checkpoint in which nothing is."""
    groups = tuple(groups)
    quantized = [group for group in groups if group.method]
    plain = [group for group in groups if not group.method]
    unexplained = sum(g.total_bytes for g in plain if g.parameter and g.dtype in _PACKED and g.elements > 1)
    if not quantized and said is None and not unexplained:
        return None
    total = sum(group.total_bytes for group in groups)
    main = max(quantized, key=lambda group: group.total_elements) if quantized else None
    method = said.method if said else (main.method or "unknown") if main else "unknown"
    return QuantizationSummary(
        method=method,
        bits=main.bits if main else said.bits if said else None,
        group_size=main.group_size if main else said.group_size if said else None,
        block=main.block if main else said.block if said else None,
        recognized=100 * unexplained <= total and (said is None or said.known or bool(quantized)),
        quantized_elements=sum(group.total_elements for group in quantized),
        quantized_bytes=sum(group.total_bytes for group in quantized),
        overhead_bytes=sum(group.count * (group.tensor_bytes - group.code_bytes) for group in quantized),
        plain_elements=sum(group.total_elements for group in plain if group.parameter),
        said=said,
    )
