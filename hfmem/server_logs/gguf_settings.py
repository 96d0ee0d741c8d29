"""What llama.cpp and its forks say of the model and of the context once that is made."""

from __future__ import annotations

import re
from typing import Final

_GGUF_FILE: Final = re.compile(r"tensors from (\S{1,400}?\.gguf)")
#: what a page or a writer of JSON puts around a line
_AROUND: Final = " `\"'}|"
_GGUF_NAME: Final = re.compile(r"general\.name(?: +str)? += +([^\n]{1,100}?)\s*(?:\n|$|llama_|llm_|print_info)")
_GGUF_CTX: Final = re.compile(r"llama_(?:context|new_context_with_model|init_from_model): n_ctx +[=:] +(\d{1,9})")
_GGUF_SEQS: Final = re.compile(r"\bn_seq_max +[=:] +(\d{1,9})")
#: its server, once the contexts are made
_GGUF_SLOTS: Final = re.compile(r"\bn_slots = (\d{1,6})")
_GGUF_UNIFIED: Final = re.compile(r"\bkv_unified +[=:] +(\w{1,10})")
_GGUF_TYPE: Final = re.compile(r"(?:file type +=|model ftype +=) +([^\n]{1,40}?)\s*(?:\n|$|print_info|llm_)")
_GGUF_BATCH: Final = re.compile(r"\bn_ubatch +[=:] +(\d{1,9})")
_GGUF_FLASH: Final = re.compile(r"\bflash_attn +[=:] +(\w{1,10})")
#: what `auto` came to: of releases of 2025, and of today's
_GGUF_RESOLVED: Final = re.compile(r"Flash Attention (?:was auto|not supported), set to (\w{1,10})")
_GGUF_TYPES: Final = re.compile(r"\bK \(([\w.]{2,12})\):[^V\n]{1,40}V \(([\w.]{2,12})\)")
#: what a cache says of itself: cells of a stream, layers, sequences, streams (without them all sequences are in one)
_GGUF_CELLS: Final = re.compile(
    r"llama_kv_cache\w{0,12}: +size = [^(\n]{1,24}\( {0,8}(\d{1,9}) cells, {1,4}\d{1,4} +layers?"
    r"(?:, {1,4}(\d{1,6})(?:/(\d{1,6}))? seqs)?"
)
_GGUF_LATENT: Final = re.compile(r"c\^KV \(([\w.]{2,12})\):[^k\n]{1,40}kv\^T(?: \(([\w.]{2,12})\)|: not used)")

#: Ollama's own runner: what it is asked for, and what it says of a file
_OLLAMA: Final = re.compile(
    r"Operation:commit [^\n]{0,60}?Parallel:(\d{1,4}) [^\n]{0,60}?FlashAttention:(\w{1,10}) KvSize:(\d{1,9}) KvCacheType:(\w{0,8})"
)
_OLLAMA_FILE: Final = re.compile(
    r"architecture=\w{1,40} file_type=([\w.]{1,16}) name=(?:\"([^\"\n]{1,100})\"|(\S{1,100}))"
)
#: what tells a build, about, where the log does not name it: later first (`src/llama-context.cpp` of several releases)
_GGUF_FORMS: Final = (
    (re.compile(r"sched_reserve: graph(?: \(pp bs=\d{1,6}, tg bs=\d{1,6}\))?: nodes ="), 11000),
    (re.compile(r"\bn_outputs_max +[=:]"), 9500),
    (re.compile(r"\bsched_reserve: graph nodes +="), 8500),
    (re.compile(r"\bllama_context: +\S{1,40} compute buffer size ="), 7000),
    (re.compile(r"llama_new_context_with_model:|llama_init_from_model:|\bllm_load_|: graph nodes +="), 5000),
)


def build_told(text: str) -> int | None:
    """llama.cpp's build by what it prints, about; None: nothing tells."""
    return next((build for pattern, build in _GGUF_FORMS if pattern.search(text)), None)


def put_gguf(said: dict[str, str], before: str, text: str) -> None:
    """llama.cpp says what it runs with once a context is made; the model is the last that was loaded before."""
    for pattern in (_GGUF_NAME, _GGUF_FILE):
        if names := pattern.findall(before) or pattern.findall(text)[:1]:
            said["model"] = names[-1].strip(_AROUND)
            break
    for pattern, setting in (
        (_GGUF_CTX, "context"),
        (_GGUF_BATCH, "ubatch"),
        (_GGUF_UNIFIED, "unified"),
    ):
        if found := pattern.findall(text):
            said[setting] = found[-1]
    if slots := _GGUF_SEQS.findall(before) or _GGUF_SEQS.findall(text)[:1]:  # the line before that of the context
        said["slots"] = slots[-1]
    elif served := _GGUF_SLOTS.search(text):
        said["slots"] = served[1]
    if cells := _GGUF_CELLS.findall(text):
        _put_cells(said, cells)
    if types := _GGUF_TYPE.findall(before) or _GGUF_TYPE.findall(text)[:1]:
        said["file_type"] = types[-1].strip(_AROUND)
    if flash := _GGUF_FLASH.findall(text):
        said["flash"] = flash[-1]
    if resolved := _GGUF_RESOLVED.findall(text):
        said["flash"] = resolved[-1]
    if types := _GGUF_TYPES.findall(text):
        said["key_type"], said["value_type"] = types[-1]
    if asked := _OLLAMA.search(text):
        said["slots"], said["flash"], said["context"] = asked[1], asked[2].lower(), asked[3]
        said["flash"] = "0" if said["flash"] in ("false", "disabled") else "1"
        if asked[4]:
            said["key_type"] = said["value_type"] = asked[4]
    if file := _OLLAMA_FILE.search(before) or _OLLAMA_FILE.search(text):
        said.setdefault("file_type", file[1])
        said.setdefault("model", file[2] or file[3])
    if latent := _GGUF_LATENT.findall(text):
        said["key_type"], transposed = latent[-1]
        said["value_type"], said["latent"] = (
            transposed or said["key_type"],
            "transposed" if transposed else "compressed",
        )


def _put_cells(said: dict[str, str], caches: list[tuple[str, str, str]]) -> None:
    """The context and its slots by the caches' own lines, where those of the context are not in the log."""
    streams = {int(count) for _, _, count in caches if count}
    if "context" not in said:
        said["context"] = str(max(int(cells) for cells, _, _ in caches) * max(streams, default=1))
    slots = max((int(seqs) for _, seqs, _ in caches if seqs), default=1)
    if slots > 1:
        said.setdefault("slots", str(slots))
        said.setdefault("unified", "true" if max(streams, default=1) == 1 else "false")
