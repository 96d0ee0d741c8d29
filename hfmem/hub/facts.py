"""What a source hands on: one model's facts, as plain data, and how they are written to JSON and read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from hfmem.checkpoint.groups_json import dump_checkpoint, load_checkpoint
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.records import dataclass, field

if TYPE_CHECKING:
    from hfmem.hub.gguf import GgufFacts

#: raised when the JSON below changes; entries of another version are fetched again
SCHEMA = 1

Source = Literal["hub", "cache", "local", "catalog"]
Evidence = Literal["headers", "index", "config"]

#: (done, total, label): called from the caller's thread while files are read
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class FetchStats:
    """What reading a model took. `requests` counts every HTTP request, redirects included; `bytes_read` their bodies."""

    requests: int = 0
    bytes_read: int = 0
    cache_hit: bool = False
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One file of the weights, with its size in bytes where it is known."""

    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Everything read of one model; later stages need no I/O.

    `repo_id` is the repo, or the path of a local model; `revision` its commit, None where none is known.
    `config_file` says where `config` came from, for messages. `extra` holds small JSON files that complete
    config.json (`hf_quant_config.json`, …) by name. `checkpoint` is None when no headers were read: `evidence` then
    says what is known ("index": `index_total_size`, the total of the weight index; "config": config.json alone).
    `download_bytes` is the size of the weight files a default download takes. `provenance` tells where a catalogue
    entry's facts were published, `date` the day they were written down. `notice` is a line for the user. `warnings`
    are (code, message) pairs.
    """

    repo_id: str
    revision: str | None
    source: Source
    config: Mapping[str, Any]
    config_file: str
    checkpoint: Checkpoint | None
    evidence: Evidence
    index_total_size: int | None = None
    download_bytes: int | None = None
    weight_files: tuple[WeightFile, ...] = ()
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notice: str | None = None
    warnings: tuple[tuple[str, str], ...] = ()
    provenance: str | None = None
    date: str | None = None
    stats: FetchStats = FetchStats()


def gguf_facts(found: GgufFacts, repo_id: str, revision: str | None, source: Source) -> ModelFacts:
    """The facts of a GGUF model: its own keys stand where config.json does."""
    sizes = [file.size for file in found.files]
    return ModelFacts(
        repo_id=repo_id,
        revision=revision,
        source=source,
        config=found.keys,
        config_file=found.file,
        checkpoint=found.checkpoint,
        evidence="headers",
        download_bytes=None if None in sizes else sum(size or 0 for size in sizes),
        weight_files=found.files,
    )


def facts_to_json(facts: ModelFacts) -> dict[str, Any]:
    """A compact JSON object of what is worth keeping: source, notice and stats belong to one call and are left out."""
    out: dict[str, Any] = {
        "id": facts.repo_id,
        "schema": SCHEMA,
        "commit": facts.revision,
        "date": facts.date,
        "provenance": facts.provenance,
        "evidence": facts.evidence,
        "config_file": facts.config_file,
        "config": facts.config,
        "extra": facts.extra,
        "checkpoint": None if facts.checkpoint is None else dump_checkpoint(facts.checkpoint),
        "index_total_size": facts.index_total_size,
        "download_bytes": facts.download_bytes,
        "files": [[file.name, file.size] for file in facts.weight_files],
        "warnings": [list(pair) for pair in facts.warnings],
    }
    return {key: value for key, value in out.items() if value not in (None, [], {}) or key == "config"}


def facts_from_json(data: Mapping[str, Any], source: Source) -> ModelFacts:
    """The facts that `facts_to_json` wrote.

    Raises:
        ValueError, TypeError, KeyError, FormatError: not such an object, or one of another schema.
    """
    if data["schema"] != SCHEMA or not isinstance(data["config"], dict) or not isinstance(data["id"], str):
        raise ValueError("not facts of this schema")
    checkpoint = data.get("checkpoint")
    return ModelFacts(
        repo_id=data["id"],
        revision=data.get("commit"),
        source=source,
        config=data["config"],
        config_file=data["config_file"],
        checkpoint=None if checkpoint is None else load_checkpoint(checkpoint, "facts"),
        evidence=data["evidence"],
        index_total_size=data.get("index_total_size"),
        download_bytes=data.get("download_bytes"),
        weight_files=tuple(WeightFile(name, size) for name, size in data.get("files", ())),
        extra=dict(data.get("extra", {})),
        warnings=tuple((code, message) for code, message in data.get("warnings", ())),
        provenance=data.get("provenance"),
        date=data.get("date"),
    )
