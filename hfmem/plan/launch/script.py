"""A Python script that serves a model with transformers, for the settings of a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hfmem.dtypes import dtype_word
from hfmem.errors import UsageError

if TYPE_CHECKING:
    from hfmem.plan.launch.settings import Launch

#: `quant` words that bitsandbytes applies while loading
BITSANDBYTES: Final[dict[str, str]] = {
    "int8": "BitsAndBytesConfig(load_in_8bit=True)",
    "nf4": 'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")',
}


def script(launch: Launch) -> str:
    """Python source; every string from outside is a literal in it.

    Raises:
        UsageError: a draft head that no `assistant_model` is.
    """
    quantization = BITSANDBYTES.get(launch.quant or "")
    imports = "AutoModelForCausalLM, AutoTokenizer" + (", BitsAndBytesConfig" if quantization else "")
    words = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    dtype = words.get(dtype_word(launch.dtype or ""), "auto")
    options = [f"dtype={dtype!a}", 'device_map="auto"']
    if launch.tp > 1:  # torchrun: one process a rank
        options[1] = 'tp_plan="auto"'
    lines = [
        f"from transformers import {imports}",
        "",
        f"name = {launch.model!a}",
        f"revision = {launch.revision!a}",
        "tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)",
        "model = AutoModelForCausalLM.from_pretrained(",
        f"    name, revision=revision, {', '.join(options)}"
        + (f",\n    quantization_config={quantization}" if quantization else ""),
        ")",
    ]
    if launch.lora is not None:
        lines.append(f"model.load_adapter({launch.lora!a})")
    lines += [
        f'prompts = ["Hello"] * {launch.num_seqs}',
        'inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(model.device)',
    ]
    if launch.draft_method not in ("model", "mtp"):
        raise UsageError(
            f"--emit transformers: transformers drafts with whole models, not with a head ({launch.draft})"
        )
    assistant = ""
    if launch.draft is not None and launch.draft != "mtp":
        lines.append(
            f'assistant = AutoModelForCausalLM.from_pretrained({launch.draft!a}, dtype={dtype!a}, device_map="auto")'
        )
        assistant = ", assistant_model=assistant"
    kept = launch.cache_implementation
    cached = "" if kept == "dynamic" else f", cache_implementation={kept!a}"
    lines.append(f"output = model.generate(**inputs, max_length={launch.context}{cached}{assistant})")
    return "\n".join(lines)
