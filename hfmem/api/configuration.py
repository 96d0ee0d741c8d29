"""One model served in one way on its devices: every setting resolved, so that whatever asks about it asks the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from hfmem.api.reading import Model, in_format
from hfmem.api.unused import unused_settings
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Note
from hfmem.records import dataclass, field, replace

if TYPE_CHECKING:
    from hfmem.api.extras import Extras
    from hfmem.memory.drafts import Drafter
    from hfmem.memory.result import CacheBytes
    from hfmem.memory.weights import RankWeights
    from hfmem.plan.fit import Scale
    from hfmem.plan.target import Target
    from hfmem.report import Report, RuntimeItem

#: what an estimate assumes for a model whose config names no maximum (state-space models)
DEFAULT_CONTEXT: Final = 8192


@dataclass(frozen=True, slots=True)
class Configuration:
    """A model, how it is served, and on what (None: on no device in particular).

    `read` is the model in the format asked for, `original` as it is published. `tp_given` and `pp_given`: the sizes were asked
    for, and a search over devices keeps them. `known_weights` is shared by all searches over this model's layouts.
    """

    read: Model
    original: Model
    serving: Serving
    overhead: Fraction | float | None = None
    extras: Extras | None = None
    target: Target | None = None
    notes: tuple[Note, ...] = ()
    quant: str | None = None
    dtype: str | None = None
    tp_given: bool = False
    pp_given: bool = False
    known_weights: dict[tuple[object, ...], Any] = field(default_factory=dict)

    @property
    def drafter(self) -> Drafter | None:
        """What drafts beside the model, if anything."""
        return self.extras.drafter if self.extras else None

    def scale(self, target: Target | None = None) -> Scale:
        """What weighs the model again and again on `target`, or on its own devices."""
        from hfmem.plan.fit import Scale

        on = target or self.target
        assert on is not None, "a scale needs a device"
        return Scale(
            self.read.architecture, self.read.parameters.groups, self._runtime(on), on, self.known_weights, self.drafter
        )

    def _runtime(self, target: Target) -> Any:
        from hfmem.api.assembly import runtime_items

        def runtime(serving: Serving, ranks: RankWeights, cache: CacheBytes) -> Mapping[str, RuntimeItem]:
            items = runtime_items(self.read, serving, ranks, cache, self.overhead, target.device)
            return items | self.extras.items(serving) if self.extras else items

        return runtime

    def report(self) -> Report:
        """The whole report, `fit` and `engine_pool` of the devices included.

        Raises:
            UnsupportedError: the engine refuses the model or the layout.
        """
        from hfmem.api.assembly import assemble

        notes = [
            *self.notes,
            *_context_notes(self.read, self.serving.context),
            *unused_settings(self.read.architecture, self.serving),
        ]
        serving = self.on_devices
        if self.target is None:
            return assemble(self.read, serving, notes, self.overhead, None, self.extras)
        from hfmem.plan.fit import assess

        report = assemble(self.read, serving, notes, self.overhead, self.target.device, self.extras)
        return assess(report, self.scale(), serving)

    @property
    def on_devices(self) -> Serving:
        """`serving` with what the engine derives from the devices."""
        if self.target is None:
            return self.serving
        from hfmem.plan.target import on_device

        return on_device(self.serving, self.target.device)

    def serve(self, **changes: Any) -> Configuration:
        """The same with other settings of `Serving`."""
        return replace(self, serving=replace(self.serving, **changes))

    def place(self, target: Target, tp: int, pp: int) -> Configuration:
        """The same on other devices."""
        return replace(self.serve(tp=tp, pp=pp), target=target)

    def stored_as(self, quant: str) -> Configuration:
        """The same with weights in another format.

        Raises:
            UsageError, UnsupportedError: as `in_format`.
        """
        read, extras = in_format(self.original, quant, None), self.extras
        if extras is not None and extras.own is not None:  # its own prediction layers are stored so, too
            extras = replace(extras, own=read)
        return replace(self, read=read, extras=extras, quant=quant, known_weights={})


def _context_notes(read: Model, context: int) -> list[Note]:
    positions = read.architecture.max_position_embeddings
    if not positions or context <= positions:
        return []
    scaled = "rope_scaling is set" if read.architecture.rope_scaled else "rope_scaling is not set"
    text = f"{context:,} tokens exceed the {positions:,} positions this model was trained for ({scaled})"
    return [Note("context_exceeds_positions", text)]


def is_gguf(read: Model) -> bool:
    """Whether the model was read from GGUF files, which are llama.cpp's."""
    return read.facts.checkpoint is not None and read.facts.checkpoint.format == "gguf"
