"""The ways to store a weight that `--quant` knows, each with the tensors it leaves in a safetensors file.

The layouts are those that `hfmem.checkpoint.layouts` reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import prod
from typing import Final

from hfmem.records import dataclass

#: leaf, dtype and shape of one stored tensor
_Stored = tuple[str, str, tuple[int, ...]]
#: the tensors that store a `[…, out, in]` weight whose scales each serve `group` inputs (None: a whole row), codes
#: first
_Layout = Callable[[tuple[int, ...], int | None], tuple[_Stored, ...]]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store weights; `layout` gives the tensors, `what` says it in words.

    `experts_only` leaves the rest of a mixture of experts alone; `everything` takes embeddings and the head too, `head` the head.
    `of_dtype`: the layout of weights that were of a given dtype, where it matters.
    """

    name: str
    method: str
    bits: int
    group_size: int | None
    layout: _Layout
    what: str
    experts_only: bool = False
    everything: bool = False
    head: bool = False
    of_dtype: Callable[[str], _Layout] | None = None

    @property
    def calibrated(self) -> bool:
        """Whether tools make such copies from transformers' classes, which have no prediction layers: those stay as they are
        (`mtp*` among what the configs of NVIDIA's copies leave out)."""
        return self.method in ("gptq", "awq", "modelopt") or self.name in ("int4", "int8")


def up(value: int, per: int) -> int:
    """`value / per`, rounded up."""
    return -(-value // per)


def groups_of(shape: tuple[int, ...], group: int | None) -> tuple[int, ...]:
    """The shape of scales along the inputs, each for `group` of them (None: a whole row)."""
    return (*shape[:-1], 1 if group is None else up(shape[-1], group))


def stack(shape: tuple[int, ...], *matrix: int) -> tuple[int, ...]:
    """A tensor of the shape `matrix` for each matrix of a stack."""
    return (*shape[:-2], *matrix)


def _fp8(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    return ("weight", "F8_E4M3", shape), ("weight_scale", "BF16", groups_of(shape, None))


def _fp8_tensor(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    one = shape[:-2]
    return ("weight", "F8_E4M3", shape), ("weight_scale", "F32", one), ("input_scale", "F32", one)


def _fp8_block(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    blocks = stack(shape, up(shape[-2], 128), up(shape[-1], 128))
    return ("weight", "F8_E4M3", shape), ("weight_scale_inv", "F32", blocks)


def _mxfp8(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    return ("weight", "F8_E4M3", shape), ("weight_scale", "U8", groups_of(shape, group))


def _int8(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    return ("weight", "I8", shape), ("weight_scale", "BF16", groups_of(shape, None))


def _bnb8(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    return ("weight", "I8", shape), ("SCB", "F32", shape[:-1]), ("weight_format", "U8", shape[:-2])


def _int4(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    packed = (*shape[:-1], up(shape[-1], 8))
    scale = groups_of(shape, group)
    return ("weight_packed", "I32", packed), ("weight_scale", "BF16", scale), ("weight_shape", "I64", stack(shape, 2))


def gptq_layout(bits: int, *, index: bool = True) -> _Layout:
    """GPTQ's codes, zeros and scales of a matrix; `index`: and each input's group, which is left out where inputs are in order."""

    def layout(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
        out, inputs = shape[-2:]
        groups = groups_of(shape, group)[-1]
        stored: tuple[_Stored, ...] = (
            ("qweight", "I32", stack(shape, up(inputs * bits, 32), out)),
            ("qzeros", "I32", stack(shape, groups, up(out * bits, 32))),
            ("scales", "F16", stack(shape, groups, out)),
        )
        return (*stored, ("g_idx", "I32", stack(shape, inputs))) if index else stored

    return layout


def _awq(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    out, inputs = shape[-2:]
    groups = groups_of(shape, group)[-1]
    return (
        ("qweight", "I32", stack(shape, inputs, up(out, 8))),
        ("qzeros", "I32", stack(shape, groups, up(out, 8))),
        ("scales", "F16", stack(shape, groups, out)),
    )


#: as bitsandbytes spells the dtypes of weights
_SPELLED: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
#: the mean of a matrix's scales, which double quantization takes off: a few hundredths, of as many digits as it usually has
_OFFSET: Final = 0.04461078345775604


def _nf4(dtype: str) -> _Layout:
    """Of weights that were of this dtype: codes, scales, the table, and settings as a JSON text, which names dtype and shape."""

    def layout(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
        elements = prod(shape)
        return (
            ("weight", "U8", (up(elements, 2), 1)),
            ("weight.absmax", "F32", (up(elements, group or 64),)),
            ("weight.quant_map", "F32", (16,)),
            ("weight.quant_state.bitsandbytes__nf4", "U8", (len(_quant_state(dtype, shape, group)),)),
        )

    return layout


def _nf4_double(dtype: str) -> _Layout:
    """The same with scales of 8 bits and theirs. The length of one number in the settings is the usual one."""

    def layout(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
        blocks = up(prod(shape), group or 64)
        nested = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": _OFFSET}
        return (
            ("weight", "U8", (up(prod(shape), 2), 1)),
            ("weight.absmax", "U8", (blocks,)),
            ("weight.quant_map", "F32", (16,)),
            ("weight.nested_absmax", "F32", (up(blocks, 256),)),
            ("weight.nested_quant_map", "F32", (256,)),
            ("weight.quant_state.bitsandbytes__nf4", "U8", (len(_quant_state(dtype, shape, group, **nested)),)),
        )

    return layout


def _quant_state(dtype: str, shape: tuple[int, ...], group: int | None, **nested: object) -> str:
    """What bitsandbytes 0.50 stores beside a matrix (`functional.py`, `QuantState.as_dict`)."""
    said = {
        "quant_type": "nf4",
        "blocksize": group or 64,
        "dtype": _SPELLED.get(dtype, "bfloat16"),
        "shape": list(shape),
    }
    return json.dumps(said | nested)


def _nvfp4(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    one = shape[:-2]
    return (
        ("weight", "U8", (*shape[:-1], up(shape[-1], 2))),
        ("weight_scale", "F8_E4M3", groups_of(shape, group)),
        ("weight_scale_2", "F32", one),
        ("input_scale", "F32", one),
    )


def _nvfp4_weights(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    return _nvfp4(shape, group)[:-1]


def _mxfp4(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    return ("weight", "U8", (*shape[:-1], up(shape[-1], 2))), ("weight_scale", "U8", groups_of(shape, group))


def _hqq(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
    groups = up(prod(shape), group or 64)
    return ("W_q", "U8", ((group or 64) // 2, groups)), ("scale", "F16", (1, groups)), ("zero", "F16", (1, groups))


def _mlx(bits: int) -> _Layout:
    def layout(shape: tuple[int, ...], group: int | None) -> tuple[_Stored, ...]:
        scale = groups_of(shape, group)
        codes = (*shape[:-1], up(shape[-1] * bits, 32))
        return ("weight", "U32", codes), ("scales", "BF16", scale), ("biases", "BF16", scale)

    return layout


#: every scheme by the word that `--quant` takes
SCHEMES: Final[Mapping[str, Scheme]] = {
    scheme.name: scheme
    for scheme in (
        Scheme("fp8", "compressed-tensors", 8, None, _fp8, "FP8, one bf16 scale a row (FP8-dynamic)"),
        Scheme("fp8-tensor", "modelopt", 8, None, _fp8_tensor, "FP8, one scale a matrix, static inputs"),
        Scheme("fp8-block", "fp8", 8, None, _fp8_block, "FP8, one fp32 scale a 128 × 128 block (DeepSeek)"),
        Scheme("mxfp8", "modelopt", 8, 32, _mxfp8, "FP8 with an E8M0 scale for each 32"),
        Scheme("int8", "compressed-tensors", 8, None, _int8, "INT8, one bf16 scale a row (W8A8)"),
        Scheme("bnb-int8", "bitsandbytes", 8, None, _bnb8, "bitsandbytes LLM.int8"),
        Scheme("int4", "compressed-tensors", 4, 128, _int4, "INT4, groups of 128, symmetric (W4A16)"),
        Scheme("gptq", "gptq", 4, 128, gptq_layout(4), "GPTQ, 4 bit, groups of 128"),
        Scheme("gptq-int3", "gptq", 3, 128, gptq_layout(3), "GPTQ, 3 bit, groups of 128"),
        Scheme("gptq-int8", "gptq", 8, 128, gptq_layout(8), "GPTQ, 8 bit, groups of 128"),
        Scheme("awq", "awq", 4, 128, _awq, "AWQ, 4 bit, groups of 128"),
        Scheme("nf4", "bitsandbytes", 4, 64, _nf4("BF16"), "bitsandbytes NF4, blocks of 64", of_dtype=_nf4),
        Scheme(
            "nf4-double",
            "bitsandbytes",
            4,
            64,
            _nf4_double("BF16"),
            "bitsandbytes NF4 with double quantization",
            of_dtype=_nf4_double,
        ),
        Scheme("nvfp4", "modelopt", 4, 16, _nvfp4, "NVFP4, an FP8 scale for each 16"),
        Scheme("nvfp4-a16", "modelopt", 4, 16, _nvfp4_weights, "NVFP4 weights, inputs as they are"),
        Scheme("mxfp4", "mxfp4", 4, 32, _mxfp4, "MXFP4; of a mixture of experts the experts alone", experts_only=True),
        Scheme("hqq", "hqq", 4, 64, _hqq, "HQQ, 4 bit, groups of 64"),
        *(
            Scheme(f"mlx-{bits}bit", "mlx", bits, 64, _mlx(bits), f"MLX, {bits} bit, groups of 64", everything=True)
            for bits in (3, 4, 5, 6, 8)
        ),
    )
}

#: other spellings people type
ALIASES: Final = {
    "fp8-dynamic": "fp8",
    "fp8_dynamic": "fp8",
    "fp8-per-channel": "fp8",
    "fp8-per-tensor": "fp8-tensor",
    "fp8-per-block": "fp8-block",
    "w8a8": "int8",
    "w4a16": "int4",
    "gptq-int4": "gptq",
    "bnb": "nf4",
    "bnb-4bit": "nf4",
    "bnb4": "nf4",
    "bnb8": "bnb-int8",
    "bnb-8bit": "bnb-int8",
    "nf4-dq": "nf4-double",
    "mlx": "mlx-4bit",
    "mlx4": "mlx-4bit",
    "mlx8": "mlx-8bit",
}
