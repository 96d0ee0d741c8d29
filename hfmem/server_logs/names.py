"""What a model that a log names may be called elsewhere."""

from __future__ import annotations

import re
from typing import Final

from hfmem.checkpoint.whatif import names


def model_names(text: str) -> tuple[str, ...]:
    """What a model that a log names may be called: as it stands, then what its path tells.

    `/data/org/name/` → `org/name`; a Hub cache's `models--org--name/snapshots/…` → `org/name`; `Qwen2___5-7B` (ModelScope) →
    `Qwen2.5-7B`.
    """
    plain = text.strip().rstrip("/").replace("___", ".")
    found = [text.strip(), plain]
    if cached := re.search(r"models--([\w.-]+?)--([\w.-]+)", plain):
        found.append(f"{cached[1]}/{cached[2]}")
    parts = [part for part in re.split(r"[/\\]", plain) if part]
    if len(parts) > 2 and parts[-1].isdigit():  # Kaggle's `owner/family/transformers/name/version`
        parts.pop()
        found += [f"{parts[at - 1]}/{parts[-1]}" for at in (-3, -2) if len(parts) > 1 - at]
    if len(parts) > 1:
        found.append("/".join(parts[-2:]))
    if parts:
        found.append(parts[-1])
    return tuple(dict.fromkeys(name for name in found if name))


#: end of a repo's name → the format its weights are in, as `--quant` takes it
_FORMAT_WORDS: Final = (
    (r"(?:-text)?[-.](?:nv)?fp4(?:-mtp)?", "nvfp4"),
    (r"[-.](?:fp8)(?:-(?:dynamic|block|static\w*|kv))?", "fp8"),
    (r"[-.](?:quantized\.)?w8a8", "int8"),
    (r"[-.]autoround-(?:int4|w4a16)(?:-\w{1,20})?", "gptq"),
    (r"(?:-qat)?[-.](?:quantized\.)?w4a16(?:-ct)?", "gptq"),
    (r"[-.]awq(?:-int4|-4bit)?", "awq"),
    (r"[-.]gptq-(?:int8|8bit)", "gptq-int8"),
    (r"(?:[-.]autoround(?:-4bit)?)?[-.]gptq(?:-(?:int4|4b(?:it)?|w4a16))?(?:-\w{1,20})?", "gptq"),
    (r"[-.]mxfp4(?:-\w{1,20})?", "mxfp4"),
    (r"[-.]bf16", "bf16"),
    (r"[-.](?:unsloth-)?bnb-4bit", "nf4"),
    (r"[-.]int4-autoround", "gptq"),
)


def base_of(name: str) -> tuple[str, str | None]:
    """The model of which `name` is a quantized copy, and the format: `org/Name-FP8-dynamic` → `org/Name`, `fp8`. None: it is none
    by its name."""
    for pattern, fmt in _FORMAT_WORDS:
        if match := re.fullmatch(rf"(.+?){pattern}/?", name, re.IGNORECASE):
            return match[1], fmt
    return name, None


def is_publishers_own(name: str) -> bool:
    """Whether `name` is a quantized copy under its publisher's name: another may keep other tensors in 16 bit."""
    return base_of(name)[1] is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None


def gguf_type(name: str) -> str | None:
    """The type that a GGUF's own name tells, of a file or as a tag (`org/Name-GGUF:Q4_K_M`), in lower case; None: none."""
    found = re.search(r"[-._:/](i?q\d\w{0,8}|bf16|f16)(?:\.gguf)?$", name, re.IGNORECASE)
    return found[1].lower() if found and "gguf" in name.lower() and found[1].lower() in names() else None


#: what names the model where no setting does, the surest first: the loader's line, the banner, an image's argument, a snapshot
_ELSEWHERE: Final = (
    re.compile(r"Starting to load model (\S{1,300}?)\.\.\."),
    re.compile(r"█ {1,6}model {1,6}(\S{1,300})"),
    re.compile(r"vllm-openai\S{0,80}\s{1,8}(?:\\\s{0,8})?([\w.-]{1,96}/[\w.-]{1,96})(?!\S)"),
    re.compile(r"Found local HF snapshot for (\S{1,300}) at"),
    re.compile(r"models--([\w.-]{1,96}?--[\w.-]{1,96})"),
)
_SERVED: Final = re.compile(r"served[_-]model[_-]name'?[:=\s]{1,3}(?:\['|')?([\w./~:-]{1,200})")
_BASE_URL: Final = re.compile(
    r"general\.(?:base_model\.0\.)?repo_url\s+str\s+= https://huggingface\.co/([\w.-]+/[\w.-]+?)\s*(?:\n|$)"
)


def named_elsewhere(text: str) -> tuple[str, ...]:
    """Models that lines of `text` name beside the settings, the surest first; a GGUF's own repository, the name served."""
    found = [match[1].replace("--", "/", 1) for pattern in _ELSEWHERE if (match := pattern.search(text))]
    found += [match[1] for pattern in (_BASE_URL, _SERVED) if (match := pattern.search(text))]
    return tuple(dict.fromkeys(name for name in found if not name.endswith("...")))
