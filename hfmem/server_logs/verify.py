"""From a log's text to its verification: the settings given win over the log's, and the model is found by the name in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hfmem.api.reading import Model, in_format, read_model
from hfmem.errors import HfmemError, ModelNotFoundError, OfflineError, SourceError, UsageError
from hfmem.hub import FetchOptions
from hfmem.hub.catalog import catalog_names
from hfmem.hub.facts import FetchStats
from hfmem.memory.formats import canonical_kv_dtype
from hfmem.plan.devices import find_device
from hfmem.records import dataclass, replace
from hfmem.server_logs.checks import Verification
from hfmem.server_logs.compare import verify
from hfmem.server_logs.names import base_of, gguf_type, is_publishers_own, model_names
from hfmem.server_logs.parse import parse_log
from hfmem.server_logs.settings import Settings

#: words at the end of a GGUF's own name that are not part of the model's
_GGUF_WORDS = re.compile(
    r"(?i)([\s_.-]+(bf16|f16|f32|safetensors|qat|gguf|ud|i1|imatrix|mxfp4(_moe)?|i?q\d\w*|\d{5}-of-\d{5}))+$|^unsloth[_-]|'"
)
#: folders before a file's name, and its maker's name joined to it
_FOLDERS = re.compile(r"^.*[/\\]")
_MAKER = re.compile(r"^[A-Za-z0-9-]{2,30}_(?=[A-Za-z])")
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
#: of a longer log the rest is traffic
_SEARCHED = 4 << 20


@dataclass(frozen=True, slots=True)
class VerifiedLog:
    """A verification, the model's name, what reading it took, and what must be said with it."""

    result: Verification
    model: str
    stats: FetchStats
    notes: tuple[str, ...]


def verify_log(
    text: str,
    model: str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    device: str | None = None,
    quant: str | None = None,
    revision: str | None = None,
    assume: str | None = None,
    fetch: FetchOptions | None = None,
) -> VerifiedLog:
    """Compare the log in `text` with the prediction.

    Args:
        model: what was served; None: what the log names.
        given: settings (`hfmem.server_logs.settings.Settings`) that win over the log's.
        device, quant, revision, assume, fetch: as in `hfmem.estimate`.

    Raises:
        UsageError: no engine's line is in the text, or it names no model and none is given.
        SourceError, UnsupportedError: the model cannot be read, or is not supported.
    """
    log = parse_log(text, model)
    told = dict(given or {})
    if "kv_dtype" in told:
        told["kv_dtype"] = canonical_kv_dtype(told["kv_dtype"])
    log = replace(log, settings=replace(log.settings, **told))
    ran_on = None if device is None else find_device(device).device
    notes: list[str] = []
    if model is not None:
        read = read_model(model, revision=revision, assume=assume, fetch=fetch)
    else:
        read, notes = _told(log.settings, text, revision or log.settings.revision, assume, fetch)
    if quant is None and log.engine == "vllm" and read.packing is None and read.quantization is None:
        quant = gguf_type(log.settings.model or "")  # llama.cpp's logs say what each tensor is in
        notes += [f"weights in {quant}, by the name of {log.settings.model}"] if quant else []
    read = in_format(read, quant)
    if read.facts.notice:
        notes.append(read.facts.notice)
    return VerifiedLog(verify(read, log, device=ran_on), read.facts.repo_id, read.facts.stats, tuple(notes))


def _told(
    told: Settings, text: str, revision: str | None, assume: str | None, fetch: FetchOptions | None
) -> tuple[Model, list[str]]:
    """The model that the settings name, or else other lines, or the one model of the catalogue that the text names in full.

    Raises:
        UsageError: nothing names one.
        SourceError: it cannot be read.
    """
    names = [name for name in (told.model, *told.also) if name is not None]
    if not names and (named := _mentioned(text)):
        names = [named]
    if not names:
        raise UsageError("the log names no model: hfmem verify LOGFILE MODEL")
    first: HfmemError | None = None
    for name in names:
        try:
            return _named(name, revision, assume, fetch)
        except (ModelNotFoundError, OfflineError, UsageError) as error:
            first = first or error
    assert first is not None
    raise first


def _mentioned(text: str) -> str | None:
    """The only model of the catalogue, or quantized copy of one, that a text names in full."""
    known = {name.lower() for name in catalog_names()}
    named = {name.strip("."): None for name in _REPO.findall(text[:_SEARCHED])}
    found = [name for name in named if name.lower() in known or base_of(name)[0].lower() in known]
    return found[0] if len({name.lower() for name in found}) == 1 else None


def _named(name: str, revision: str | None, assume: str | None, fetch: FetchOptions | None) -> tuple[Model, list[str]]:
    """The model that a log calls `name`: as it stands, what its path tells, a catalogue model of that name, or the model of which
    it is a quantized copy."""
    first: HfmemError | None = None
    for copy in (False, True):
        for reference in _references(_stripped(name) if copy else _written(name)):
            try:
                read = read_model(reference, revision=revision, assume=assume, fetch=fetch)
            except (SourceError, UsageError) as error:
                first = first or error
                if not isinstance(error, ModelNotFoundError | OfflineError | UsageError):
                    raise
                continue
            return read, [] if reference == name else [f"the log's {name} is taken for {reference}"]
        base, quant = base_of(name)
        if quant is not None and not copy:
            try:
                read, _ = _named(base, None, assume, fetch)
            except HfmemError:
                pass
            else:
                return in_format(read, quant), [f"{name} cannot be read: {read.facts.repo_id} in {quant}, by its name"]
    raise ModelNotFoundError(f"the log names {name}, which cannot be read here: hfmem verify LOGFILE MODEL") from first


def _written(name: str) -> list[str]:
    """`name` as it stands, by its path, and without its maker's name."""
    return [*model_names(name), _MAKER.sub("", _FOLDERS.sub("", name))]


def _stripped(name: str) -> list[str]:
    """`name` without what a GGUF's own name ends with; then the folder of its file or copy."""
    file = _GGUF_WORDS.sub("", _GGUF_WORDS.sub("", _FOLDERS.sub("", name)))
    above = re.split(r"[/\\]", name.rstrip("/"))[-2:-1]
    return [_GGUF_WORDS.sub("", name), file, _MAKER.sub("", file), *above]


def _references(names: list[str]) -> Iterator[str]:
    seen = set()
    tails = {_key(known.rpartition("/")[2]): known for known in catalog_names()}
    for candidate in names:
        if candidate not in seen and (_REPO.fullmatch(candidate) or (candidate == names[0] and "/" in candidate)):
            seen.add(candidate)
            yield candidate
    for candidate in () if is_publishers_own(names[0]) else names:
        known = tails.get(_key(candidate.rpartition("/")[2]))
        if known is not None and known not in seen:
            seen.add(known)
            yield known


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
