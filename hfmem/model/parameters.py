"""How many parameters a model has and what its weights take, from the best evidence at hand.

Headers say it exactly; the index names tensors and a size; the config alone gives the family's inventory at the config's dtype. The
counting rules are the same for all three: a parameter counts once however it is
packed or shared, buffers are not parameters, multi-token-prediction layers count where they are stored and are not active.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from hfmem.checkpoint.logical import LogicalGroup, is_plain
from hfmem.checkpoint.tensors import Box, Checkpoint, TensorGroup
from hfmem.errors import MissingFileError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.expected import expected_groups, uniform_dtype
from hfmem.model.inventory import Component
from hfmem.model.matching import Expected, Match, matcher_of
from hfmem.model.names import classify, core, is_buffer_name, is_router
from hfmem.records import dataclass, replace

if TYPE_CHECKING:
    from hfmem.checkpoint.quantization_config import Quantization


@dataclass(frozen=True, slots=True)
class ParameterReport:
    """Logical parameters and stored bytes. Every component is a key of the two component maps, zero where there is none.

    `evidence` is "headers", "index" or "config"; `exact` says whether `weights_bytes` was read rather than derived.
    `groups` are the tensors behind the bytes: stored ones with headers, else the inventory's at the config's dtype.
    """

    total: int
    active: int
    by_component: Mapping[str, int]
    weights_bytes: int
    weights_by_dtype: Mapping[str, int]
    weights_by_component: Mapping[str, int]
    evidence: str
    exact: bool
    groups: tuple[TensorGroup, ...]
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """Some tensors of one group: what they are part of, and the share of their elements that one token uses."""

    component: Component
    active: Fraction
    boxes: tuple[Box, ...]
    count: int
    expected: Expected | None


class Locator:
    """Answers for any stored tensor, expected or not, which component it belongs to."""

    def __init__(self, architecture: Architecture | None) -> None:
        self.matcher = matcher_of(architecture.tensors if architecture else ())
        self._share = Fraction(1)
        if architecture and architecture.num_experts and architecture.num_experts_per_tok:
            self._share = Fraction(architecture.num_experts_per_tok, architecture.num_experts)
        self._mtp_layers = self._layers_of_mtp()

    def _layers_of_mtp(self) -> dict[str, frozenset[int]]:
        """Layer numbers that only multi-token-prediction tensors have, by what stands before the number."""
        own: dict[str, set[int]] = {}
        others: dict[str, set[int]] = {}
        for item in self.matcher.expected:
            stem, brace, _ = item.core.partition(".{}")
            if brace:
                target = own if item.spec.component is Component.MTP else others
                for box in item.boxes:
                    target.setdefault(stem, set()).update(box[0])
        return {stem: frozenset(values - others.get(stem, set())) for stem, values in own.items()}

    def locate(self, pattern: str, boxes: Sequence[Box]) -> list[Located]:
        """The tensors of one group, dealt out to components."""
        found: list[Located] = []
        for match in self.matcher.assign(pattern, boxes):
            if match.expected is not None:
                found.append(self._locate(pattern, match, is_expected=True))
            else:
                owners = self.matcher.owners(pattern, match.boxes)
                found += (self._locate(pattern, own, is_expected=False) for own in owners)
        return found

    def _locate(self, pattern: str, match: Match, *, is_expected: bool) -> Located:
        expected = match.expected
        if expected is not None:
            component = expected.spec.component
            active = expected.spec.active
            if not is_expected and component is Component.EXPERTS:
                active = Fraction(1) if is_router(pattern) else self._share
        else:
            component = Component.MTP if self._in_mtp(pattern, match.boxes) else classify(pattern)
            routed = component is Component.EXPERTS and not is_router(pattern)
            active = self._share if routed else Fraction(1)
        if component is Component.MTP:
            active = Fraction(0)
        return Located(component, active, match.boxes, match.count, expected if is_expected else None)

    def _in_mtp(self, pattern: str, boxes: Sequence[Box]) -> bool:
        if "{}" not in pattern or not self._mtp_layers:
            return False
        stem = pattern.partition(".{}")[0]
        for known, layers in self._mtp_layers.items():
            if (stem == known or stem.endswith(f".{known}")) and boxes[0] and boxes[0][0][0] in layers:
                return True
        return False


def count_parameters(
    architecture: Architecture | None,
    checkpoint: Checkpoint | None = None,
    *,
    logical: Sequence[TensorGroup] | None = None,
    total_size: int | None = None,
    quantization: Quantization | None = None,
) -> ParameterReport:
    """Count parameters and bytes from the best of the evidence given.

    Args:
        architecture: the family's reading of the config; None where no family covers the model (then names classify tensors).
        checkpoint: all tensors, from headers. Exact.
        logical: what the checkpoint's tensors stand for once unpacked; left out, what their layout tells (`logical_groups`).
        total_size: the size of all tensors, as an index gives it.
        quantization: how the config says that weights are packed, for their size where nothing else tells it.

    Raises:
        MissingFileError: neither an architecture nor any evidence.
    """
    locator = Locator(architecture)
    if checkpoint is not None:
        by_component, active = tally(_unpacked(checkpoint) if logical is None else logical, locator)
        by_dtype, bytes_by_component = _stored(checkpoint.groups, locator)
        return ParameterReport(
            sum(by_component.values()), active, by_component, checkpoint.total_bytes, by_dtype, bytes_by_component,
            "headers", True, checkpoint.groups,
        )  # fmt: skip
    if architecture is None or (architecture.partial and not total_size):
        if architecture is None:
            raise MissingFileError("no tensor headers to count, and no architecture that says what to expect")
        what = f"what a {architecture.model_type} stores is told by its files' headers alone"
        raise MissingFileError(f"{what}, and none are at hand")
    return _without_headers(architecture, locator, total_size, quantization)


def _unpacked(checkpoint: Checkpoint) -> Sequence[TensorGroup]:
    if is_plain(checkpoint.groups):
        return checkpoint.groups
    from hfmem.checkpoint.quantization import logical_groups  # many layouts to load; most models need none

    return logical_groups(checkpoint)


def tally(groups: Iterable[TensorGroup], locator: Locator) -> tuple[dict[str, int], int]:
    """Logical parameters by component, and how many of them one token uses."""
    by_component = _empty()
    active = Fraction(0)
    targets = {item.spec.tied_to for item in locator.matcher.expected} - {None}
    # tensors that share one storage: the class's name → the members found in the file, the owner first
    shared: dict[str, list[tuple[bool, Component, int]]] = {}
    groups = tuple(groups)
    packed = {
        core(group.pattern).rpartition(".")[0] for group in groups if isinstance(group, LogicalGroup) and group.method
    }
    for group in groups:
        if isinstance(group, LogicalGroup) and not group.parameter:
            continue
        module, _, leaf = core(group.pattern).rpartition(".")
        for part in locator.locate(group.pattern, group.boxes):
            elements = part.count * group.elements
            spec = part.expected.spec if part.expected else None
            if spec is None:
                if group.dtype == "BOOL" or is_buffer_name(group.pattern, group.shape):
                    continue
                if leaf == "bias" and module in packed and locator.matcher.expected:
                    continue  # GPTQ and AWQ tools write a bias of zeros beside every packed weight
            elif spec.buffer:
                continue
            elif spec.tied_to is not None or spec.pattern in targets:
                key = spec.tied_to if spec.tied_to is not None else spec.pattern
                shared.setdefault(key, []).append((spec.tied_to is not None, part.component, elements))
                continue
            by_component[part.component] += elements
            active += elements * part.active
    for key, members in shared.items():
        borrowed, component, elements = min(members, key=lambda member: member[0])
        if borrowed:  # the file stores the copy and leaves its owner out
            component = next(
                (item.spec.component for item in locator.matcher.expected if item.spec.pattern == key), component
            )
        by_component[component] += elements
        active += elements
    return by_component, int(active)


def _stored(groups: Iterable[TensorGroup], locator: Locator) -> tuple[dict[str, int], dict[str, int]]:
    by_dtype: dict[str, int] = {}
    by_component = _empty()
    for group in groups:
        sizes = group.bytes_by_dtype() if isinstance(group, LogicalGroup) else {group.dtype: group.total_bytes}
        for code, size in sizes.items():
            by_dtype[code] = by_dtype.get(code, 0) + size
        for part in locator.locate(group.pattern, group.boxes):
            by_component[part.component] += part.count * group.tensor_bytes
    return dict(sorted(by_dtype.items(), key=lambda item: (-item[1], item[0]))), by_component


def _empty() -> dict[str, int]:
    return {component.value: 0 for component in Component}


# ---- without headers -----------------------------------------------------------------------------------------------------


def _without_headers(
    architecture: Architecture,
    locator: Locator,
    known: int | None,
    quantization: Quantization | None,
) -> ParameterReport:
    notes: list[Note] = []
    if known is None and quantization is None and not architecture.dtype_given:
        counted = f"weights are counted in {architecture.dtype}, the default of transformers"
        notes.append(Note("dtype_assumed", f"no dtype in the config, no headers at hand: {counted}"))
    plain = expected_groups(architecture, locator.matcher, None if quantization else known)
    if known and quantization is None and (code := uniform_dtype(plain, known, architecture.dtype)):
        plain = tuple(TensorGroup(g.pattern, code, g.shape, g.boxes) for g in plain)
    by_component, active = tally(plain, locator)
    stored: tuple[TensorGroup, ...] = plain
    if quantization is not None:
        from hfmem.model.quantized import stored_as_said  # its schemes take longer to load than most estimates to make

        packed = stored_as_said(plain, quantization)
        stored = plain if packed is None else packed
        if not known:
            notes.append(_derived_size(quantization, packed is not None))
    by_dtype, bytes_by_component = _stored(stored, locator)
    derived = sum(by_dtype.values())
    if known and known != derived:
        by_dtype = _explain(by_dtype, known)
        bytes_by_component = _scaled(bytes_by_component, derived, known)
        if quantization is None:
            message = (
                f"the index gives {known:,} bytes of weights, the config's inventory {derived:,}; the former is used"
            )
            notes.append(Note("weights_size_differs", message))
    return ParameterReport(
        sum(by_component.values()), active, by_component, known or derived, by_dtype, bytes_by_component,
        "index" if known else "config", bool(known), stored, tuple(notes),
    )  # fmt: skip


def _derived_size(quantization: Quantization, converted: bool) -> Note:
    if converted:
        message = f"the weights' size follows from what {quantization.file} says of {quantization.method}"
        return Note("quantized_size_derived", f"no headers at hand: {message}")
    message = f"{quantization.file} says {quantization.method}, whose layout is not known, and no headers are at hand"
    message += ": this is the size before quantization"
    return Note("quantized_size_unknown", message)


def _explain(by_dtype: Mapping[str, int], known: int) -> dict[str, int]:
    """The derived bytes by dtype where they fit below the known total, the rest as unknown; else all of it unknown."""
    rest = known - sum(by_dtype.values())
    return {**by_dtype, "unknown": rest} if rest > 0 else {"unknown": known}


def _scaled(by_component: Mapping[str, int], derived: int, known: int) -> dict[str, int]:
    """The component split in the proportions of the inventory, adding up to the known total."""
    if not derived:
        return {**by_component, Component.OTHER.value: known}
    scaled = {name: value * known // derived for name, value in by_component.items()}
    largest = max(scaled, key=lambda name: scaled[name])
    scaled[largest] += known - sum(scaled.values())
    return scaled


def stored_dtype(groups: Iterable[TensorGroup]) -> str | None:
    """The float dtype that most stored bytes are in; None where nothing is stored as a float of two bytes or more."""
    sizes: dict[str, int] = {}
    for group in groups:
        if group.dtype in ("F64", "F32", "BF16", "F16"):
            sizes[group.dtype] = sizes.get(group.dtype, 0) + group.total_bytes
    return max(sizes, key=lambda code: sizes[code]) if sizes else None


def with_stored_dtype(
    architecture: Architecture, groups: Iterable[TensorGroup] = (), *, quantized: bool = False
) -> Architecture:
    """The architecture in the dtype of its files where config.json names none, which is what engines load it in.

    Without files, quantized weights imply BF16 beside them: what is quantized was trained in half precision.
    """
    if architecture.dtype_given:
        return architecture
    code = stored_dtype(groups) or ("BF16" if quantized else None)
    return architecture if code is None else replace(architecture, dtype=code)
