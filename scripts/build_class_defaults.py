"""Write hfmem/model/data/class_defaults.json.gz: what an installed transformers assumes for keys that a config.json leaves out.

Facts only: the default of each memory-relevant dataclass field of every configuration class, and the class's attribute aliases.
Values that a class computes from other fields after construction are not defaults and do not appear (the field's own default, often
null, does). Run with the transformers release that the table should speak of:

    python scripts/build_class_defaults.py hfmem/model/data/class_defaults.json.gz
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import re
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

#: fields that cannot change a byte of weights or cache
_IRRELEVANT = re.compile(
    r"dropout|_token_id|_eps$|epsilon|initializer|^hidden_act|activation|_act$|output_(?!dim|channels|size|proj|embedding|groups|layers)|loss|use_cache|return_|problem_type|id2label"
    r"|label2id|_std$|(?<!scale)(?<!downsample)(?<!expansion)(?<!subsampling)(?<!upsampling)(?<!stacking)(?<!shuffle)(?<!reduction)_factor$|^transformers_version|is_encoder_decoder$|chunk_size_feed|init_|jitter|_theta$|^rope_|^use_bfloat"
    r"|_coef$|_range$|torchscript|name_or_path|_name$|layerdrop|mask_|_prob$|pruned_heads|finetuning|task_(?!type_vocab)|_drop$|gradient|(?<!res2net_)scale$|scaling"
)


def relevant(name: str, value: Any) -> bool:
    """Whether a field's default belongs into the table."""
    if name.startswith("_") or _IRRELEVANT.search(name):
        return False
    if isinstance(value, (bool, int, str)) or value is None or (isinstance(value, float) and name.endswith("_ratio")):
        return True
    return isinstance(value, (list, tuple)) and len(value) <= 64 and all(isinstance(v, (int, str, bool)) for v in value)


def field_defaults(config_class: type) -> dict[str, Any]:
    """Defaults of the class's own dataclass fields, as the class states them."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            continue
        if relevant(field.name, value):
            found[field.name] = value
    return found


def table_text(source: str, defaults: dict[str, dict[str, Any]], aliases: dict[str, dict[str, str]]) -> str:
    """One JSON object with a line for each model type, so that `hfmem.model.config` can find and read one alone."""
    rows = [
        f"{json.dumps(name)}:" + compact({"defaults": values} | ({"aliases": aliases[name]} if name in aliases else {}))
        for name, values in sorted(defaults.items())
    ]
    return f'{{"source":{json.dumps(source)},"classes":{{\n' + ",\n".join(rows) + "\n}}\n"


def compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def main() -> None:
    """Collect every configuration class and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    base = set(field_defaults(transformers.PretrainedConfig)) - {"tie_word_embeddings"}
    defaults: dict[str, dict[str, Any]] = {}
    aliases: dict[str, dict[str, str]] = {}

    def collect(config_class: Any) -> None:
        model_type = getattr(config_class, "model_type", "")
        if not model_type or model_type in defaults:
            return
        defaults[model_type] = {k: v for k, v in sorted(field_defaults(config_class).items()) if k not in base}
        subs = dict(getattr(config_class, "sub_configs", {}).items())
        for key, sub in subs.items():
            sub_type = getattr(sub, "model_type", "")
            if sub_type:
                defaults[model_type][f"{key}.model_type"] = sub_type
            if dataclasses.is_dataclass(sub):
                collect(sub)
        for key, spec in (getattr(config_class, "sub_configs_defaults", None) or {}).items():
            if spec.model_type:
                defaults[model_type][f"{key}.model_type"] = spec.model_type
            if issubclass(spec.config_class, transformers.PretrainedConfig):  # else a nested part's own type decides
                defaults[model_type][f"{key}.fixed"] = True
            if kept := {k: v for k, v in spec.init_kwargs.items() if relevant(k, v)}:
                defaults[model_type][f"{key}.values"] = kept
        mapped = dict((getattr(config_class, "attribute_map", None) or {}).items())
        if mapped:
            aliases[model_type] = mapped

    for model_type in list(CONFIG_MAPPING):
        config_class = CONFIG_MAPPING[model_type]
        collect(config_class)
        if model_type not in defaults:  # another type's class under a name of its own (GPT-SW3)
            defaults[model_type] = defaults[config_class.model_type]
            if config_class.model_type in aliases:
                aliases[model_type] = aliases[config_class.model_type]
    source = f"transformers {transformers.__version__}, configuration class field defaults"
    output.parent.mkdir(parents=True, exist_ok=True)
    text = table_text(source, defaults, aliases)
    with output.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
        packed.write(text.encode())
    print(f"{output}: {len(defaults)} model types, {len(text):,} bytes of JSON, {output.stat().st_size:,} packed")


if __name__ == "__main__":
    main()
