"""The quantizations of one repository side by side: sizes from the listing, the rest from one of their headers."""

from __future__ import annotations

from hfmem.hub.gguf import GgufListing, GgufModel, SeveralModelsError, by_tag
from hfmem.memory import engines
from hfmem.memory.runtime import estimate_runtime
from hfmem.memory.serving import Serving
from hfmem.model.families.gguf import read_gguf
from hfmem.model.parameters import count_parameters
from hfmem.records import dataclass, replace


@dataclass(frozen=True, slots=True)
class Choice:
    """One model of a place with several. `reference` is what to type for it; what no header told is None.

    `total_bytes` is the file and the cache; `fits` whether they and llama.cpp's own memory fit the devices asked about.
    """

    reference: str
    label: str | None
    files: tuple[str, ...]
    num_files: int
    size_bytes: int | None
    bits_per_weight: float | None = None
    parameters: int | None = None
    model_type: str | None = None
    context: int | None = None
    num_seqs: int = 1
    kv_cache_bytes: int | None = None
    total_bytes: int | None = None
    fits: bool | None = None


def choices(
    several: SeveralModelsError,
    context: int | None = None,
    num_seqs: int = 1,
    kv_dtype: str = "auto",
    available_bytes: int | None = None,
) -> tuple[Choice, ...]:
    """One line for each model of the place, smallest first. `available_bytes` is the memory of all devices together.

    Raises:
        UsageError: a KV dtype or a context out of range. UnsupportedError: an architecture without a rule.
    """
    listing = several.listing
    rows = tuple(_row(several, model) for model in listing.models)
    facts = several.facts
    if facts is None or facts.checkpoint is None:
        return rows
    architecture = read_gguf(facts.config, facts.checkpoint, facts.config_file)
    parameters = count_parameters(architecture, facts.checkpoint).total
    tokens = context or architecture.max_position_embeddings or 8192
    serving = Serving(context=tokens, num_seqs=num_seqs, kv_dtype=kv_dtype, engine="llama.cpp")
    cache = engines.engine("llama.cpp").cache(architecture, serving).bytes
    runtime = sum(item.bytes for item in estimate_runtime(architecture, serving).values())

    def fits(size: int | None) -> bool | None:
        return None if size is None or available_bytes is None else size + cache + runtime <= available_bytes

    return tuple(
        replace(
            row,
            parameters=parameters,
            model_type=architecture.model_type,
            bits_per_weight=None if row.size_bytes is None else round(8 * row.size_bytes / parameters, 4),
            context=tokens,
            num_seqs=num_seqs,
            kv_cache_bytes=cache,
            total_bytes=None if row.size_bytes is None else row.size_bytes + cache,
            fits=fits(row.size_bytes),
        )
        for row in rows
    )


def beside(listing: GgufListing) -> tuple[str, ...]:
    """Files that go with the models: projectors, and what holds no model."""
    lines = []
    for kind, models in (("projector", listing.projectors), ("no model", listing.others)):
        for model in models:
            size = "" if model.size is None else f", {model.size / 1e9:.2f} GB"
            lines.append(f"{model.files[0].name} ({kind}{size})")
    return tuple(lines)


def _row(several: SeveralModelsError, model: GgufModel) -> Choice:
    others = [other.label for other in several.listing.models]
    by_label = several.by_label and model.label is not None and others.count(model.label) == 1
    by_label = by_label and by_tag(several.listing, model.label or "") in (None, model.stem)
    names = tuple(file.name for file in model.files)
    reference = f"{several.place}:{model.label}" if by_label else f"{several.place}/{names[0]}"
    return Choice(reference, model.label, names, len(names), model.size)
