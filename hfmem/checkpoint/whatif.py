"""The same model in another format: each weight replaced by what a quantizer would store for it. All sizes are `derived`.

Which weights: the linear layers of the decoder. Embeddings, the output head, norms, biases, routers, convolutions and
vision or audio towers stay as they are, as the published recipes of these methods have it; MLX and GGUF also take
embeddings and the head. The layouts are those that `hfmem.checkpoint.layouts` reads, so a derived size and a real one
differ by recipe alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Final

from hfmem.checkpoint.logical import LogicalGroup, Part
from hfmem.checkpoint.roles import MATRICES, Role, is_expert, is_prediction, role_of, vocabulary
from hfmem.checkpoint.schemes import ALIASES, SCHEMES, Scheme
from hfmem.checkpoint.whatif_gguf import FILE_TYPES, gguf_groups
from hfmem.dtypes import canonical, num_bytes
from hfmem.errors import UnsupportedError, UsageError
from hfmem.records import replace

_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})
_MATRIX_FP8: Final = frozenset({"F8_E4M3", "F8_E5M2"})


def names() -> tuple[str, ...]:
    """Every word that `convert` takes, dtypes first."""
    return ("bf16", "fp16", "fp32", *SCHEMES, *(name.lower() for name in FILE_TYPES))


def convert(
    groups: Iterable[LogicalGroup],
    target: str | Scheme,
    *,
    dtype: str | None = None,
    group_size: int | None = None,
    tied: bool = False,
) -> tuple[LogicalGroup, ...]:
    """The weights as `target` would store them: a scheme (`fp8`, `awq`, `nvfp4` …), a GGUF type (`q4_k_m`) or a dtype (`bf16`).

    Args:
        groups: logical weights of the model, from its files, quantized or not.
        target: one of `names()`, in any case; or a scheme that has no such name.
        dtype: of the weights that stay unquantized; None: as stored, and the model's main float type for what was
            quantized.
        group_size: of schemes that have one; None: the usual, -1: one scale a row.
        tied: the head is the embedding's own tensor (GGUF then stores and types it once).

    Raises:
        UsageError: no such format.
    """
    groups = tuple(groups)
    rest = canonical(dtype) if dtype else None
    if isinstance(target, str):
        word = target.lower().replace("_", "-")
        if (file_type := target.upper().replace("-", "_")) in FILE_TYPES:
            return gguf_groups(groups, file_type, tied=tied)
        scheme = SCHEMES.get(ALIASES.get(word, word))
    else:
        scheme = target
    if scheme is None:
        try:
            rest = canonical(str(target))
        except UnsupportedError:
            raise UsageError(_unknown(str(target))) from None
        return tuple(_plain(group, rest, True) for group in groups)
    if group_size is not None and scheme.group_size is not None:
        scheme = replace(scheme, group_size=group_size if group_size > 0 else None)
    main = rest or main_dtype(groups)
    vocab = vocabulary(groups)
    moe = any(is_expert(group.pattern) for group in groups)
    return tuple(
        _stored_as(scheme, group, main) if _takes(scheme, group, vocab, moe) else _plain(group, main, rest is not None)
        for group in groups
    )


#: what people mean who say how many bits alone: for GGUF files, and for an engine that reads safetensors
_MEANT: Final = {
    "q4": ("q4_k_m", "int4"),
    "4": ("int4", "nf4", "q4_k_m"),
    "q5": ("q5_k_m",),
    "q6": ("q6_k",),
    "q8": ("q8_0", "int8"),
    "8": ("int8", "fp8", "q8_0"),
}


def _unknown(target: str) -> str:
    from difflib import get_close_matches  # for refusals only

    meant = _MEANT.get(target.lower().replace("-", "").replace("bit", ""), ())
    near = meant or get_close_matches(target.lower(), [*names(), *ALIASES], n=1)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names()[:12])} …"
    return f"no format called {target!r} ({hint})"


def main_dtype(groups: Iterable[LogicalGroup]) -> str:
    """The float type that most unquantized bytes are stored in; BF16 where there are none."""
    sizes: dict[str, int] = {}
    for group in groups:
        if not group.method and group.dtype in ("BF16", "F16", "F32"):
            sizes[group.dtype] = sizes.get(group.dtype, 0) + group.total_bytes
    return max(sizes, key=lambda dtype: sizes[dtype], default="BF16")


def _takes(scheme: Scheme, group: LogicalGroup, vocab: int | None, moe: bool) -> bool:
    if not group.parameter or not group.elements:
        return False
    role = role_of(group, vocab)
    if (scheme.everything and role in (Role.EMBEDDING, Role.HEAD)) or (scheme.head and role is Role.HEAD):
        return group.shape[-1] % 64 == 0
    if role not in MATRICES or "{}" not in group.pattern or group.pattern.endswith("eh_proj.weight"):
        return False
    if scheme.experts_only and moe and not is_expert(group.pattern):
        return False
    if scheme.calibrated and is_prediction(group.pattern):
        return False
    # a dimension this small is a gate or a per-head factor, which recipes name as exceptions
    return len(group.shape) == 1 or (min(group.shape[-2:]) >= 32 and group.shape[-1] % 32 == 0)


def _stored_as(scheme: Scheme, group: LogicalGroup, main: str) -> LogicalGroup:
    """The group as the scheme stores it. `main`: the dtype that weights which are packed already once had."""
    shape = group.shape if len(group.shape) > 1 else (1, *group.shape)
    base = group.pattern.removesuffix(".weight")
    layout = scheme.of_dtype(main if group.method else group.dtype) if scheme.of_dtype else scheme.layout
    stored = layout(shape, scheme.group_size)
    parts = tuple(Part(f"{base}.{leaf}", dtype, dims) for leaf, dtype, dims in stored)
    return replace(
        group,
        dtype=parts[0].dtype,
        parts=parts,
        method=scheme.method,
        bits=scheme.bits,
        group_size=scheme.group_size,
        block=(128, 128) if scheme.name == "fp8-block" else None,
    )


def _plain(group: LogicalGroup, dtype: str, cast: bool) -> LogicalGroup:
    """The group unquantized; floats are cast where `cast` asks for it, and always where they were quantized."""
    if not group.method and not (cast and group.parameter and group.dtype in _FLOATS | _MATRIX_FP8):
        return group
    part = Part(group.pattern, dtype, group.shape)
    return replace(group, dtype=dtype, parts=(part,), method=None, bits=None, group_size=None, block=None)


def total_bytes(groups: Iterable[LogicalGroup]) -> int:
    """Stored bytes of all groups."""
    return sum(group.count * sum(num_bytes(part.dtype, prod(part.shape)) for part in group.parts) for group in groups)
