"""A weight of [OUT, IN] as the packings in widest use store it: GPTQ, AWQ, bitsandbytes, FP8, compressed-tensors."""

from __future__ import annotations

from typing import Any

from quantized_tensors import COMPRESSED_INT4, IN, OUT, Stored

#: name of the case, leaves of the module, what the config says, method, bits, group size
Layout = tuple[str, Stored, dict[str, Any] | None, str, int, int | None]

COMMON: list[Layout] = [
    *(
        (
            f"gptq-{bits}bit{'-said' if said else ''}",
            {
                "qweight": ("I32", (IN * bits // 32, OUT)),
                "qzeros": ("I32", (IN // 128, OUT * bits // 32)),
                "scales": ("F16", (IN // 128, OUT)),
                "g_idx": ("I32", (IN,)),
            },
            {"quant_method": "gptq", "bits": bits, "group_size": 128, "desc_act": True} if said else None,
            "gptq",
            bits,
            128,
        )
        for bits in (2, 3, 4, 8)
        for said in (True, False)
    ),
    (
        "gptq one group, no zeros",
        {"qweight": ("I32", (IN // 8, OUT)), "scales": ("F16", (1, OUT)), "g_idx": ("I32", (IN,))},
        {"quant_method": "gptq", "bits": 4, "group_size": -1},
        "gptq",
        4,
        None,
    ),
    (
        "awq gemm",
        {
            "qweight": ("I32", (IN, OUT // 8)),
            "qzeros": ("I32", (IN // 64, OUT // 8)),
            "scales": ("F16", (IN // 64, OUT)),
        },
        None,
        "awq",
        4,
        64,
    ),
    (
        "awq gemv",
        {"qweight": ("I32", (OUT, IN // 8)), "qzeros": ("I32", (OUT, 4)), "scales": ("F16", (OUT, IN // 128))},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"},
        "awq",
        4,
        128,
    ),
    (
        "bitsandbytes nf4, nested",
        {
            "weight": ("U8", (OUT * IN // 2, 1)),
            "weight.absmax": ("U8", (OUT * IN // 64,)),
            "weight.quant_map": ("F32", (16,)),
            "weight.nested_absmax": ("F32", (OUT * IN // 64 // 256,)),
            "weight.nested_quant_map": ("F32", (256,)),
            "weight.quant_state.bitsandbytes__nf4": ("U8", (91,)),
        },
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes",
        4,
        64,
    ),
    (
        "bitsandbytes fp4 stored as bf16",
        {
            "weight": ("BF16", (OUT * IN // 4, 1)),
            "weight.absmax": ("F32", (OUT * IN // 64,)),
            "weight.quant_map": ("F32", (16,)),
            "weight.quant_state.bitsandbytes__fp4": ("U8", (80,)),
        },
        None,
        "bitsandbytes",
        4,
        64,
    ),
    (
        "bitsandbytes int8",
        {"weight": ("I8", (OUT, IN)), "SCB": ("F32", (OUT,)), "weight_format": ("U8", ())},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "bitsandbytes",
        8,
        None,
    ),
    (
        "fp8 blocks",
        {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale_inv": ("F32", (OUT // 128, IN // 128))},
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "fp8",
        8,
        None,
    ),
    ("fp8 per tensor", {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale": ("F32", ())}, None, "fp8", 8, None),
    (
        "fp8 per channel, static input",
        {"weight": ("F8_E4M3", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1)), "input_scale": ("F32", (1,))},
        None,
        "fp8",
        8,
        None,
    ),
    (
        "compressed-tensors w4a16",
        {
            "weight_packed": ("I32", (OUT, IN // 8)),
            "weight_scale": ("BF16", (OUT, IN // 128)),
            "weight_shape": ("I64", (2,)),
        },
        COMPRESSED_INT4,
        "compressed-tensors",
        4,
        128,
    ),
    (
        "compressed-tensors w4a16 asymmetric, act-order",
        {
            "weight_packed": ("I32", (OUT, IN // 8)),
            "weight_scale": ("BF16", (OUT, IN // 128)),
            "weight_zero_point": ("I32", (OUT // 8, IN // 128)),
            "weight_g_idx": ("I32", (IN,)),
            "weight_shape": ("I64", (2,)),
        },
        COMPRESSED_INT4,
        "compressed-tensors",
        4,
        128,
    ),
    (
        "compressed-tensors w8a8",
        {"weight": ("I8", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1)), "weight_zero_point": ("I8", (OUT, 1))},
        {**COMPRESSED_INT4, "format": "int-quantized"},
        "compressed-tensors",
        8,
        None,
    ),
    (
        "compressed-tensors nvfp4",
        {
            "weight_packed": ("U8", (OUT, IN // 2)),
            "weight_scale": ("F8_E4M3", (OUT, IN // 16)),
            "weight_global_scale": ("F32", (1,)),
            "input_global_scale": ("F32", (1,)),
        },
        None,
        "compressed-tensors",
        4,
        16,
    ),
    (
        "compressed-tensors int4-quantized",
        {"weight_packed": ("I8", (OUT, IN // 2)), "weight_scale": ("BF16", (OUT, IN // 128))},
        {"quant_method": "compressed-tensors", "format": "int4-quantized"},
        "compressed-tensors",
        4,
        128,
    ),
    (
        "compressed-tensors mxfp4",
        {"weight_packed": ("U8", (OUT, IN // 2)), "weight_scale": ("U8", (OUT, IN // 32))},
        None,
        "compressed-tensors",
        4,
        32,
    ),
    (
        "compressed-tensors 2:4 bitmask over fp8",
        {
            "compressed": ("F8_E4M3", (OUT, IN // 2)),
            "bitmask": ("U8", (OUT, IN // 8)),
            "shape": ("I64", (2,)),
            "weight_scale": ("BF16", (OUT, 1)),
        },
        {**COMPRESSED_INT4, "sparsity_config": {"format": "sparse-24-bitmask"}},
        "compressed-tensors",
        8,
        None,
    ),
    (
        "compressed-tensors marlin 2:4",
        {
            "weight_packed": ("I32", (IN // 32, OUT * 2)),
            "scale_packed": ("F16", (IN // 128, OUT)),
            "meta": ("I16", (IN // 32, OUT * 2)),
        },
        COMPRESSED_INT4,
        "compressed-tensors",
        4,
        128,
    ),
]
