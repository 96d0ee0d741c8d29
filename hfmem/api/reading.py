"""Reading a model: reference → source → architecture → parameters. No memory is computed yet.

What follows the source is loaded when it is needed, so that the first request is on its way before (`hfmem.cli.loading`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hfmem.checkpoint.tensors import Checkpoint, TensorGroup
from hfmem.dtypes import canonical
from hfmem.errors import (
    AdapterError,
    ContradictionError,
    SourceError,
    UnknownArchitectureError,
    UnsupportedError,
    UsageError,
)
from hfmem.hub import FetchOptions, ModelFacts, load_model
from hfmem.records import dataclass, replace

if TYPE_CHECKING:
    from hfmem.checkpoint.quantization import QuantizationSummary
    from hfmem.checkpoint.quantization_config import Quantization
    from hfmem.memory.lora import Adapter
    from hfmem.model.architecture import Architecture, Note
    from hfmem.model.parameters import ParameterReport

#: more than a tensor takes in a header, its name included, and more than a header holds besides
_ENTRY_BYTES: Final = 300
_METADATA_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Model:
    """A model that has been read: its facts, its architecture, and how many parameters and bytes that makes.

    `notes` are what reading and the cross-check of config against headers found worth saying. `adapter` is the LoRA
    adapter whose base model this is, where the user named the adapter.
    """

    facts: ModelFacts
    architecture: Architecture
    quantization: Quantization | None
    packing: QuantizationSummary | None
    parameters: ParameterReport
    notes: tuple[Note, ...]
    adapter: Adapter | None = None

    @property
    def declared_kv_dtype(self) -> str | None:
        """The cache format that the checkpoint declares, where it is one that engines know; what `auto` then means."""
        from hfmem.memory.formats import canonical_kv_dtype
        from hfmem.model.layers import LatentAttention, SparseLatentAttention

        said = self.quantization.kv_format if self.quantization else None
        if self.quantization and self.quantization.method == "compressed-tensors":
            caches = self.architecture.caches()
            # vLLM's latent attention does not read this method's scheme (`mla_attention.py`)
            if caches and all(isinstance(cache, LatentAttention | SparseLatentAttention) for cache in caches):
                return None
        try:
            return None if said is None else canonical_kv_dtype(said)
        except UsageError:
            return None


def read_model(
    model: str,
    *,
    revision: str | None = None,
    assume: str | None = None,
    strict: bool = False,
    fetch: FetchOptions | None = None,
) -> Model:
    """Read a model and derive its architecture and parameters; no memory is computed yet.

    Args:
        model: what a user types: `org/name`, `org/name@revision`, a Hub URL, a local folder or file.
        revision: branch, tag or commit where `model` names none.
        assume: read the config as this model_type, whatever it says.
        strict: raise where config and headers disagree, instead of noting it.
        fetch: caches, offline mode, deadline, token, progress.

    Raises:
        SourceError: the model could not be read.
        UnsupportedError: it was read, and no rule covers it, or (`strict`) it contradicts itself.
        UsageError: `strict` without headers.
    """
    if strict and fetch is not None and fetch.no_headers:
        raise UsageError("--strict compares the config with the headers: leave out --no-headers")
    try:
        facts = load_model(model, revision=revision, options=fetch)
    except AdapterError as error:
        return _read_base(model, error, revision, assume, strict, fetch)
    return _interpret(facts, assume, strict)


def _interpret(facts: ModelFacts, assume: str | None, strict: bool) -> Model:
    """What the facts of a model mean."""
    from hfmem.checkpoint.logical import is_plain
    from hfmem.model.architecture import Note
    from hfmem.model.parameters import count_parameters, with_stored_dtype

    quantization = _said_quantization(facts)
    architecture = _architecture(facts, assume, quantization)
    notes = [Note(code, message) for code, message in facts.warnings]
    checkpoint = facts.checkpoint
    packing: QuantizationSummary | None = None
    if checkpoint is None:
        architecture = with_stored_dtype(architecture, quantized=quantization is not None)
        parameters = count_parameters(architecture, total_size=facts.index_total_size, quantization=quantization)
        parameters = _beside_files(parameters, facts)
    else:
        architecture = with_stored_dtype(architecture, checkpoint.groups)
        logical: Sequence[TensorGroup] = checkpoint.groups
        if quantization is not None or not is_plain(checkpoint.groups):
            from hfmem.checkpoint.quantization import logical_groups, summarize  # most models need no unpacking

            unpacked = logical_groups(checkpoint, quantization)
            logical, packing = unpacked, summarize(unpacked, quantization)
        parameters = count_parameters(architecture, checkpoint, logical=logical)
        if facts.source != "catalog" or assume is not None:  # its entries were checked when they were made
            from hfmem.model.crosscheck import check, contradictions

            found = check(architecture, checkpoint, logical)
            if strict and (worst := contradictions(found)):
                raise ContradictionError(f"{facts.repo_id}: {worst[0].message}")
            notes += found
    return Model(
        facts, architecture, quantization, packing, parameters, (*architecture.notes, *notes, *parameters.notes)
    )


def _beside_files(parameters: ParameterReport, facts: ModelFacts) -> ParameterReport:
    """Weights derived from config.json alone, with what the files' sizes say of them: can they hold these, and their headers, and
    nothing more?"""
    sizes = [file.size for file in facts.weight_files if file.name.endswith(".safetensors")]
    if parameters.exact or not sizes or len(sizes) < len(facts.weight_files) or facts.download_bytes is None:
        return parameters
    headers = _ENTRY_BYTES * sum(group.count for group in parameters.groups) + _METADATA_BYTES * len(sizes)
    rest = facts.download_bytes - parameters.weights_bytes
    if 0 <= rest <= headers:
        return replace(parameters, notes=tuple(n for n in parameters.notes if n.code != "quantized_size_derived"))
    from hfmem.model.architecture import Note

    differ = (
        f"{abs(rest):,} bytes {'more' if rest > 0 else 'less'} than the {parameters.weights_bytes:,} of the weights"
    )
    message = f"the files take {differ} derived from config.json: their headers would tell what is stored"
    return replace(parameters, notes=(*parameters.notes, Note("file_sizes_differ", message)))


def _read_base(
    model: str,
    found: AdapterError,
    revision: str | None,
    assume: str | None,
    strict: bool,
    fetch: FetchOptions | None,
) -> Model:
    """The model that an adapter belongs to, with the adapter."""
    from hfmem.hub.adapter import load_adapter
    from hfmem.memory.lora import read_adapter

    if found.base is None:
        raise found
    facts = load_adapter(model, revision=revision, options=fetch)
    adapter = read_adapter(facts.repo_id, facts.config, facts.checkpoint, facts.base)
    try:
        base = _interpret(load_model(found.base, revision=facts.base_revision, options=fetch), assume, strict)
    except SourceError as error:
        raise SourceError(f"{facts.repo_id} is an adapter, and its base model cannot be read: {error}") from None
    notice = f"{facts.repo_id} is a LoRA adapter of rank {adapter.rank}; this is its base model with it"
    told = "; ".join(filter(None, (notice, base.facts.notice)))
    return replace(base, adapter=adapter, facts=replace(base.facts, notice=told))


def _architecture(facts: ModelFacts, assume: str | None, quantization: Quantization | None) -> Architecture:
    """From config.json, or from a GGUF file's own keys; a type that no rule covers by what its files can confirm."""
    if facts.checkpoint is not None and facts.checkpoint.format == "gguf":
        from hfmem.model.families.gguf import read_gguf

        if assume is not None:
            raise UsageError("--assume reads a config.json as another type: a GGUF file says itself what it is")
        return read_gguf(facts.config, facts.checkpoint, facts.config_file)
    from hfmem.model.families.registry import read_architecture

    try:
        return read_architecture(facts.config, facts.config_file, assume)
    except UnknownArchitectureError as refusal:
        if assume is not None or facts.checkpoint is None:
            raise
        from hfmem.api.confirming import confirmed  # for types that no rule covers only

        return confirmed(facts, facts.checkpoint, quantization, refusal)


def _said_quantization(facts: ModelFacts) -> Quantization | None:
    """What config.json (or a file beside it) says of quantization."""
    parts = [facts.config, *(value for value in facts.config.values() if isinstance(value, dict))]
    keys = ("quantization_config", "compression_config", "quantization")
    if not facts.extra and not any(part.get(key) for part in parts for key in keys):
        return None
    from hfmem.checkpoint.quantization_config import parse_quantization

    return parse_quantization({facts.config_file: facts.config, **facts.extra})


def in_format(read: Model, quant: str | None = None, dtype: str | None = None) -> Model:
    """The same model as if its weights were stored in another format: everything about them is then derived.

    Args:
        quant: a scheme (`fp8`, `int4`, `awq`, `nvfp4`, `q4_k_m` …; `hfmem.checkpoint.whatif.names()` has all).
        dtype: of the weights that stay unquantized, and of all without `quant`.

    Raises:
        UsageError: no such format or dtype.
    """
    if quant is None and dtype is None:
        return read
    if dtype is not None:
        try:
            canonical(dtype)
        except UnsupportedError:
            raise UsageError(f"no dtype is called {dtype!r} (known: bf16, fp16, fp32 …)") from None
    from hfmem.checkpoint.quantization import logical_groups, summarize
    from hfmem.checkpoint.whatif import convert
    from hfmem.model.parameters import count_parameters

    architecture = read.architecture
    stored = logical_groups(read.parameters.groups, read.quantization)
    groups = convert(stored, quant or str(dtype), dtype=dtype, tied=architecture.tie_word_embeddings)
    tensors = tuple(
        TensorGroup(part.pattern, part.dtype, part.shape, group.boxes) for group in groups for part in group.parts
    )
    checkpoint = Checkpoint(tensors, "safetensors", 1, None)
    counted = count_parameters(architecture, checkpoint, logical=groups)
    facts = replace(read.facts, download_bytes=None)
    if dtype is not None:
        architecture = replace(architecture, dtype=canonical(dtype))
    return replace(
        read,
        facts=facts,
        architecture=architecture,
        packing=summarize(groups),
        parameters=replace(counted, evidence=read.parameters.evidence, exact=False),
        notes=tuple(note for note in read.notes if note not in read.parameters.notes),
    )
