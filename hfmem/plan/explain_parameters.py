"""The parameter count as arithmetic: which matrices, how many of each, in the order in which a forward pass meets them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Final

from hfmem.dtypes import BITS
from hfmem.memory.layer_table import kind_of
from hfmem.model.architecture import Architecture
from hfmem.model.inventory import Component, TensorSpec
from hfmem.model.layers import (
    ChunkedAttention,
    FullAttention,
    IndexedAttention,
    LatentAttention,
    SlidingAttention,
    SparseLatentAttention,
)
from hfmem.model.parameters import ParameterReport
from hfmem.plan.steps import Step, bytes_of
from hfmem.units import counted

#: terms of a formula that are written out; further ones are summed up
MAX_TERMS: Final = 8

TITLES: Final[dict[Component, str]] = {
    Component.EMBEDDING: "Embedding",
    Component.ATTENTION: "Attention",
    Component.MLP: "MLP",
    Component.EXPERTS: "Experts",
    Component.NORM: "Norms",
    Component.LM_HEAD: "Output head",
    Component.VISION: "Vision and audio",
    Component.MTP: "Multi-token prediction",
    Component.OTHER: "Other tensors",
}


def parameter_steps(arch: Architecture, report: ParameterReport) -> list[Step]:
    """Embedding, attention, MLP or experts, head, then norms, adding up to the model's parameters; then what is active per token.

    The steps come from the family's inventory; where the files hold another number, a step says so.
    """
    if not arch.tensors:
        return _by_component(report)
    steps: list[Step] = []
    total = 0
    in_layers = {Component.NORM: (True, False)}
    order = (
        Component.EMBEDDING,
        Component.ATTENTION,
        Component.MLP,
        Component.EXPERTS,
        Component.OTHER,
        Component.VISION,
        Component.LM_HEAD,
        Component.NORM,
        Component.MTP,
    )
    for component in order:
        for within in in_layers.get(component, (None,)):
            for step in _component_steps(arch, component, within):
                total += step.result
                steps.append(Step(step.title, step.formula, step.result, step.unit, step.note, total))
    if total != report.total:
        difference = report.total - total
        note = (
            f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} than the config's family has: the files decide"
            if report.evidence == "headers"
            else f"{abs(difference):,} {'more' if difference > 0 else 'fewer'}: tensors that not every checkpoint holds"
        )
        steps.append(Step("As stored", f"{total:,} {difference:+,}", report.total, "parameters", note, report.total))
    if report.active != report.total:
        steps.append(_active(arch, report))
    return steps


def tensor_steps(specs: Sequence[TensorSpec]) -> list[Step]:
    """Any tensors as products, those of the same layers together; tied ones count with their owner."""
    steps: list[Step] = []
    total = 0
    for (_, layers), members in _by_layers(spec for spec in specs if spec.tied_to is None).items():
        size = sum(spec.count * spec.elements for spec in members)
        total += size
        where = counted(len(layers), "layer") if layers else "Outside the layers"
        steps.append(Step(where, _formula(members, len(layers) or 1), size, "parameters", None, total))
    return steps


def weight_steps(by_dtype: Mapping[str, int]) -> list[Step]:
    """Stored bytes by dtype, the largest first, adding up."""
    steps: list[Step] = []
    running = 0
    for code, size in sorted(by_dtype.items(), key=lambda pair: -pair[1]):
        running += size
        bits = BITS.get(code)
        formula = f"{size:,} bytes" if bits is None else f"{size * 8 // bits:,} × {bytes_of(bits)}"
        steps.append(Step(f"Tensors in {code}", formula, size, "bytes", None, running))
    return steps


def _by_component(report: ParameterReport) -> list[Step]:
    steps: list[Step] = []
    total = 0
    for name, count in report.by_component.items():
        if count:
            total += count
            steps.append(Step(TITLES[Component(name)], f"{count:,}", count, "parameters", None, total))
    return steps


def _active(arch: Architecture, report: ParameterReport) -> Step:
    idle = report.total - report.active
    reasons = []
    if arch.num_experts and arch.num_experts_per_tok:
        reasons.append(
            f"a token passes through {arch.num_experts_per_tok} of {arch.num_experts} routed experts in each MoE layer"
        )
    if report.by_component.get(Component.MTP.value):
        reasons.append("multi-token-prediction layers do not run in plain decoding")
    note = "; ".join(reasons) or "the rest is stored and no token uses it"
    return Step("Active per token", f"{report.total:,} − {idle:,}", report.active, "parameters", note)


def _component_steps(arch: Architecture, component: Component, within_layers: bool | None) -> list[Step]:
    specs = [s for s in arch.tensors if s.component is component and not s.buffer]
    if within_layers is not None:
        specs = [s for s in specs if (s.layer_axis is not None) is within_layers]
    tied = [s for s in specs if s.tied_to is not None]
    specs = [s for s in specs if s.tied_to is None]
    title = TITLES[component]
    if component is Component.NORM and within_layers is False:
        final = len(specs) <= 2 and not any("embed" in s.pattern.lower() for s in specs)
        title = "Final norm" if final else "Norms outside the layers"
    steps = []
    groups = _by_layers(specs)
    if component in (Component.VISION, Component.MTP, Component.OTHER):
        steps += _summed(title, specs)
    elif component is Component.NORM and len(groups) > 2:  # a dozen kinds of norm explain nothing
        formula = " + ".join(_formula(members, len(layers) or 1) for (_, layers), members in list(groups.items())[:3])
        rest = list(groups.values())[3:]
        formula += (
            f" + {sum(s.count * s.elements for g in rest for s in g):,} in {len(rest)} more kinds" if rest else ""
        )
        steps.append(Step(f"{title} in the layers", formula, sum(s.count * s.elements for s in specs), "parameters"))
    else:
        stems = {_stack(stem) for stem, _ in groups}
        for (stem, layers), members in groups.items():
            stack = f"{_stack(stem)} " if len(stems) > 1 and _stack(stem) else ""
            where = f", {len(layers)} {stack}layer{'s' if len(layers) > 1 else ''}" if layers else ""
            if layers and sum(1 for other, _ in groups if other == stem) > 1:
                where += f" ({_ranges(layers)})"
            result = sum(s.count * s.elements for s in members)
            formula = _formula(members, len(layers) or 1)
            decoder = _stack(stem) != "encoder"
            name = (_mixer(arch, component, layers) if decoder else None) or title
            note = _note(arch, component, layers if decoder else (), members)
            steps.append(Step(f"{name}{where}", formula, result, "parameters", note))
    for spec in tied:
        note = f"tied: the same {spec.elements:,} numbers as the embedding, counted once"
        steps.append(Step(title, f"{_label(spec)} {_shape(spec.shape)}", 0, "parameters", note))
    return steps


def _mixer(arch: Architecture, component: Component, layers: Sequence[int]) -> str | None:
    """The title of layers whose token mixer is no attention."""
    decoders = [item for item in arch.layers if item.stack == "decoder"]
    if component is not Component.ATTENTION or not layers or layers[0] >= len(decoders):
        return None
    kinds = {kind_of(cache) for cache in decoders[layers[0]].caches}
    return "Recurrent mixer" if kinds == {"recurrent"} else None


def _summed(title: str, specs: Sequence[TensorSpec]) -> list[Step]:
    if not specs:
        return []
    total = sum(s.count * s.elements for s in specs)
    count = sum(s.count for s in specs)
    return [Step(title, f"{count:,} tensors", total, "parameters")]


def _by_layers(specs: Iterable[TensorSpec]) -> dict[tuple[str, tuple[int, ...]], list[TensorSpec]]:
    """Specs by what stands before the layer number and the layers that they occur in; `("", ())` outside the layers."""
    found: dict[tuple[str, tuple[int, ...]], list[TensorSpec]] = {}
    for spec in specs:
        key: tuple[str, tuple[int, ...]] = ("", ())
        if spec.layer_axis is not None:
            layers = {value for box in spec.boxes for value in box[spec.layer_axis]}
            key = (spec.pattern.partition(".{}")[0], tuple(sorted(layers)))
        found.setdefault(key, []).append(spec)
    return found


def _stack(stem: str) -> str:
    """`encoder` or `decoder` where the tensors' names say so."""
    return next((word for word in ("encoder", "decoder") if word in stem.split(".")), "")


def _ranges(values: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][1] == value - 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    text = [str(a) if a == b else f"{a}–{b}" for a, b in runs[:4]]
    return ", ".join(text) + (", …" if len(runs) > 4 else "")


def _formula(specs: Sequence[TensorSpec], num_layers: int) -> str:
    """`32 × (q_proj 4,096 × 4,096 + k_proj 1,024 × 4,096 + …)`: like tensors side by side, small ones summed up at the end."""
    like: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for spec in specs:
        each, rest = divmod(spec.count, num_layers)
        if rest:  # not the same number in every layer: a sum is all that can be said
            return f"{sum(s.count for s in specs):,} tensors"
        like.setdefault((each, spec.shape), []).append(_label(spec))
    terms: list[tuple[int, str]] = []
    of_experts: dict[int, list[tuple[int, str]]] = {}
    for (each, shape), labels in like.items():
        names = ", ".join(labels) if len(labels) <= 4 else f"{labels[0]} … {labels[-1]}"
        times = f"{len(labels):,} × " if len(labels) > 1 else ""
        target = terms if each == 1 else of_experts.setdefault(each, [])
        target.append((len(labels) * each * prod(shape), f"{names} {times}{_shape(shape)}"))
    for each, inside in of_experts.items():
        terms.append((sum(size for size, _ in inside), f"{each:,} × ({' + '.join(text for _, text in inside)})"))
    if len(terms) > MAX_TERMS:
        large = sorted(terms, key=lambda term: -term[0])[: MAX_TERMS - 1]
        small = [term for term in terms if term not in large]
        terms = [term for term in terms if term in large]
        terms.append((0, f"{sum(size for size, _ in small):,} in {len(small)} smaller kinds"))
    inner = " + ".join(text for _, text in terms)
    return f"{num_layers:,} × ({inner})" if num_layers > 1 else inner


def _label(spec: TensorSpec) -> str:
    """The tensor's own name: `q_proj`, `k_proj bias`, `layer norm`."""
    parts = [part for part in spec.pattern.split(".") if part != "{}" and not part.isdigit()]
    leaf = parts.pop() if parts[-1] in ("weight", "bias") else None
    name = parts[-1] if parts else spec.pattern
    return f"{name} bias" if leaf == "bias" else name


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(f"{size:,}" for size in shape) or "1"


def _note(arch: Architecture, component: Component, layers: Sequence[int], members: Sequence[TensorSpec]) -> str | None:
    if component is Component.EMBEDDING and members:
        return "vocabulary × hidden size"
    if component is Component.EXPERTS:
        shares = {s.active for s in members} - {Fraction(1)}
        if len(shares) == 1 and arch.num_experts and arch.num_experts_per_tok:
            return f"a router picks {arch.num_experts_per_tok} of {arch.num_experts} experts for each token"
    if component is Component.ATTENTION and layers:
        return attention_note(arch, layers[0])
    return None


def attention_note(arch: Architecture, layer: int) -> str | None:
    """What a layer's attention is called and why its K and V are as small as they are."""
    decoders = [item for item in arch.layers if item.stack == "decoder"]
    if layer >= len(decoders) or not decoders[layer].caches:
        return None
    match decoders[layer].caches[0]:
        case FullAttention() | SlidingAttention() | ChunkedAttention() | IndexedAttention() as cache:
            group = cache.num_heads // cache.num_kv_heads
            if group == 1:
                return (
                    f"multi-head attention: each of the {cache.num_heads} heads has its own K and V of {cache.head_dim}"
                )
            if cache.num_kv_heads == 1:
                return f"multi-query attention: all {cache.num_heads} heads share one K and V of {cache.head_dim}"
            return (
                f"grouped-query attention: {cache.num_heads} heads share {cache.num_kv_heads} K/V heads of {cache.head_dim}, "
                f"{group} heads to each"
            )
        case LatentAttention() | SparseLatentAttention() as cache:
            return (
                f"multi-head latent attention: K and V of {cache.num_heads} heads are unfolded from one row of "
                f"{cache.kv_lora_rank} + {cache.qk_rope_head_dim}"
            )
        case _:
            return None
