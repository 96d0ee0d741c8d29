"""Which layout each quantization method's section names: for all modules, and for those that it names alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hfmem.checkpoint import config_grouped as grouped
from hfmem.checkpoint import config_layouts as layouts
from hfmem.checkpoint.config_compressed import HALVES, compressed_scheme, halved
from hfmem.checkpoint.config_schemes import config_scheme, torchao_by_name, torchao_scheme, vptq_targets
from hfmem.checkpoint.config_targets import Target, mapping, text
from hfmem.checkpoint.schemes import Scheme
from hfmem.records import replace


def own_layouts(
    method: str,
    config: Mapping[str, Any],
    bits: int | None,
    group: int | None,
    block: tuple[int, int] | None,
    targets: tuple[Target, ...],
) -> tuple[Scheme | None, tuple[Target, ...]]:
    """The layout of a section's modules and its targets with theirs; None where the method's name and bits say it all, or too
    little is said.

    Args:
        bits, group, block: as read from the section.
        targets: as read from the section.
    """
    match method:
        case "torchao" if (named := torchao_by_name(config)) is not None:
            return torchao_scheme(named.get("_default")), tuple(_torchao_targets(named))
        case "aqlm" | "bitnet" | "torchao":
            return config_scheme(method, config), targets
        case "compressed-tensors":
            groups = [entry for entry in mapping(config.get("config_groups")).values() if isinstance(entry, Mapping)]
            sparse = halved(config)
            if not groups or sparse is None:
                return (HALVES if sparse else None), targets
            scheme = compressed_scheme(groups[0], config, sparse=sparse)
            named = groups[0].get("targets")
            tables = isinstance(named, list) and "Embedding" in named
            return (replace(scheme, everything=True) if scheme and tables else scheme), targets
        case "mlx":
            mode = text(config.get("mode"))
            return layouts.mlx(bits, group, mode), _each(
                targets, lambda t: layouts.mlx(t.bits, t.group_size, t.algorithm)
            )
        case "fp8":
            return layouts.fp8(config, block), targets
        case "fbgemm_fp8":
            return layouts.FBGEMM, targets
        case "quark":
            said = mapping(config.get("global_quant_config"))
            weight = mapping(said.get("weight"))
            scheme = layouts.quark(weight, mapping(said.get("input_tensors"))) if weight else None
            return scheme, (*targets, *layouts.quark_targets(config))
        case "higgs":
            return layouts.higgs(config), targets
        case "fp_quant":
            return layouts.fp_quant(config), targets
        case "spqr":
            return None, layouts.spqr_targets(config)
        case "vptq":
            return None, vptq_targets(config)
        case "gemma":
            return layouts.gemma(config)
        case "metal":
            affine = layouts.mlx(bits, group, None)
            return (replace(affine, method="metal", everything=False) if affine else None), targets
        case "hqq":
            return layouts.hqq(bits, group), targets
        case "sinq":
            return grouped.sinq(config), targets
        case "quanto" if grouped.is_quanto_map(config):
            return None, grouped.quanto_map(config)
        case "quanto":
            return grouped.quanto(text(config.get("weights"))), targets
        case "auto-round" if layouts.has_float_codes(config):
            return None, ()
        case "auto-round":
            return _auto_round(config, bits, group, targets)
        case _:
            return None, targets


def _auto_round(
    config: Mapping[str, Any], bits: int | None, group: int | None, targets: tuple[Target, ...]
) -> tuple[Scheme | None, tuple[Target, ...]]:
    """AutoRound packs as the tool does whose format it names; under its own names it stores no index of groups."""
    packing = " ".join(text(config.get(key)) or "" for key in ("packing_format", "backend")).lower()
    if "awq" in packing or "gptqmodel" in packing:
        return None, targets
    own = _each(targets, lambda t: layouts.packed_without_index(t.bits or bits, t.group_size or group))
    return layouts.packed_without_index(bits, group), own


def _torchao_targets(named: Mapping[str, Any]) -> Iterator[Target]:
    for name, kind in named.items():
        if name != "_default":
            scheme = torchao_scheme(kind)
            yield Target(name, scheme.bits if scheme else None, None, None, scheme, plain=kind is None)


def _each(targets: Iterable[Target], scheme: Any) -> tuple[Target, ...]:
    return tuple(target if target.plain else replace(target, scheme=scheme(target)) for target in targets)
