"""Builds the catalogue that ships in the package (hfmem/hub/data/catalog.json) from a folder of configs and headers.

    python scripts/build_catalog.py --corpus CORPUS --headers HEADERS --configs CONFIGS --date 2026-11-22

CORPUS/models/<org>__<name>/ holds config.json and perhaps *.index.json; HEADERS/<org>__<name>.json.gz all shard
headers of a model, with HEADERS/INDEX.tsv saying which were verified, and HEADERS/configs/ further configs;
CONFIGS/<org>__<name>.json is a third place for configs.

Which models go in, and how those follow from others that no folder holds, says scripts/catalog_models.json. Only
headers that were verified against a published size are taken; a model without them carries its config alone, and its
tensors are worked out from that when asked.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfmem.checkpoint.shard_stream import ShardStream
from hfmem.checkpoint.tensors import Checkpoint
from hfmem.hub.catalog import PATH
from hfmem.hub.facts import ModelFacts, WeightFile, facts_to_json

MODELS = Path(__file__).with_name("catalog_models.json")
#: `verified` values of HEADERS/INDEX.tsv that mean: sizes equal published ones
VERIFIED = {
    "yes": "tensors verified against published file sizes or totals",
    "meta": "tensors of the model class, verified against the published file size",
}
#: config keys that no byte of memory depends on
_DROPPED = frozenset(
    """_name_or_path _commit_hash transformers_version use_cache auto_map task_specific_params id2label label2id tokenizer
    tokenizer_class tokenizer_config prefix initializer_range initializer_factor init_std init_method bos_token_id
    eos_token_id pad_token_id sep_token_id cls_token_id unk_token_id decoder_start_token_id forced_bos_token_id
    forced_eos_token_id suppress_tokens begin_suppress_tokens median_filter_width attention_dropout hidden_dropout
    hidden_dropout_prob attention_probs_dropout_prob embd_pdrop resid_pdrop attn_pdrop dropout activation_dropout
    classifier_dropout dropout_rate layerdrop encoder_layerdrop decoder_layerdrop summary_first_dropout
    summary_activation summary_proj_to_labels summary_type summary_use_proj num_beams max_length min_length
    length_penalty early_stopping no_repeat_ngram_size repetition_penalty output_attentions output_hidden_states
    return_dict output_past gradient_checkpointing pretraining_tp is_composition mask_time_length mask_time_prob
    mask_time_min_masks mask_feature_length mask_feature_prob mask_feature_min_masks apply_spec_augment
    boi_token_index eoi_token_index eoi_token_id boi_token_id router_aux_loss_coef aux_loss_alpha seq_aux
    output_router_logits router_jitter_noise chat_format ep_size _flash_attn_2_enabled _attn_implementation
    """.split()  # noqa: SIM905
)
#: keys of a quantization config that list the modules left as they are
_NAME_LISTS = frozenset({"modules_to_not_convert", "ignore"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--headers", type=Path, required=True)
    parser.add_argument("--configs", type=Path, required=True)
    parser.add_argument("--date", required=True, help="day of the build, YYYY-MM-DD")
    parser.add_argument("--out", type=Path, default=PATH)
    options = parser.parse_args()

    table = json.loads(MODELS.read_text("utf-8"))
    builder = Builder(options.corpus, options.headers, options.configs, options.date)
    entries = [builder.entry(item) for item in table["models"]]
    names = [entry["id"] for entry in entries]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        sys.exit(f"named twice in {MODELS.name}: {', '.join(sorted(twice))}")
    entries.sort(key=lambda entry: entry["id"].lower())
    lines = [json.dumps(entry, separators=(",", ":"), ensure_ascii=True) for entry in entries]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    exact = sum(entry["evidence"] == "headers" for entry in entries)
    print(f"{options.out}: {len(entries)} models, {exact} with their tensors, {options.out.stat().st_size:,} bytes")


class Builder:
    """Looks facts up in the three folders."""

    def __init__(self, corpus: Path, headers: Path, configs: Path, date: str) -> None:
        self.corpus, self.headers, self.configs, self.date = corpus, headers, configs, date
        with open(headers / "INDEX.tsv", encoding="utf-8", newline="") as file:
            self.verified = {row["id"]: row["verified"] for row in csv.DictReader(file, delimiter="\t")}

    def entry(self, item: str | dict[str, Any]) -> dict[str, Any]:
        """One line of the catalogue, from its item of catalog_models.json."""
        item = {"id": item} if isinstance(item, str) else item
        repo_id = item["id"]
        config_id = item.get("config_from", repo_id)
        origin: str | None
        config, origin = ({}, None) if "config" in item else self.config(config_id, item.get("config_in"))
        config = trim({**config, **item.get("config", {})})
        for key, value in item.get("set", {}).items():
            section, last = inner(config, key)
            section[last] = value
        for key in item.get("drop", []):
            section, last = inner(config, key)
            del section[last]
        if origin is None:
            origin = "config from the published description"
        elif config_id != repo_id or item.get("set") or item.get("drop"):
            origin = f"{origin} of {config_id}" + (", changed as published for this model" if item.get("set") else "")
        header_id = item.get("tensors_from", repo_id)
        checkpoint, files, how = self.tensors(header_id)
        if checkpoint is None and "tensors_from" in item:
            sys.exit(f"{repo_id}: no verified headers of {header_id}")
        if checkpoint is not None and "stored_as" in item:
            # a copy saved in another type of the same width: names, shapes and bytes hold, the type does not
            checkpoint = recast(checkpoint, item["stored_as"])
        if checkpoint is not None:
            origin += f"; {how}" + (f" (the same as in {header_id})" if header_id != repo_id else "")
        facts = ModelFacts(
            repo_id=repo_id,
            revision=None,
            source="catalog",
            config=config,
            config_file="config.json",
            checkpoint=checkpoint,
            evidence="config" if checkpoint is None else "headers",
            download_bytes=sum(file.size or 0 for file in files) or None,
            weight_files=files,
            provenance=origin,
            date=self.date,
        )
        return facts_to_json(facts)

    def config(self, repo_id: str, where: str | None) -> tuple[dict[str, Any], str]:
        """A config and what is known of its origin."""
        name = repo_id.replace("/", "__")
        places = {
            "corpus": (self.corpus / "models" / name / "config.json", "published config"),
            "headers": (self.headers / "configs" / f"{name}.json", "config from the published description"),
            "configs": (self.configs / f"{name}.json", "config from the published description"),
        }
        for place, (path, origin) in places.items():
            if where in (None, place) and path.is_file():
                return json.loads(path.read_text("utf-8")), origin
        sys.exit(f"{repo_id}: no config")

    def tensors(self, repo_id: str) -> tuple[Checkpoint | None, tuple[WeightFile, ...], str]:
        """The verified tensors of a model."""
        how = VERIFIED.get(self.verified.get(repo_id, ""))
        # ids of copies that only GitHub has keep the slash of their folder: github/<owner>__<name>
        path = self.headers / f"{repo_id.replace('/', '__')}.json.gz"
        if how is None or not path.is_file():
            return None, (), ""
        shards = json.loads(gzip.decompress(path.read_bytes()))["shards"]
        stream = ShardStream(repo_id)
        stream.feed(json.dumps({"headers": shards}, separators=(",", ":")).encode())
        checkpoint, sizes, _ = stream.finish()
        return checkpoint, tuple(WeightFile(name, size) for name, size in sizes.items()), how


def recast(checkpoint: Checkpoint, dtype: str) -> Checkpoint:
    """The same tensors in another type of the same width."""
    groups = tuple(replace(group, dtype=dtype) for group in checkpoint.groups)
    if sum(group.total_bytes for group in groups) != checkpoint.total_bytes:
        sys.exit(f"{dtype} does not have the width of what the headers store")
    return replace(checkpoint, groups=groups)


def inner(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The section that a dotted key (`text_config.hidden_size`) is in, and the key's last part."""
    *sections, last = key.split(".")
    for name in sections:
        config = config.setdefault(name, {})
    return config, last


def trim(config: dict[str, Any]) -> dict[str, Any]:
    """The config without keys and names that no byte of memory depends on; label tables become their length."""
    out = {
        key: trim(value) if isinstance(value, dict) else value for key, value in config.items() if key not in _DROPPED
    }
    for key in _NAME_LISTS & out.keys():
        if isinstance(out[key], list):  # norms and biases have no quantized form, so that naming them tells nothing
            out[key] = [name for name in out[key] if not str(name).endswith(("norm", "bias"))]
    if isinstance(config.get("id2label"), dict) and "num_labels" not in out:
        out["num_labels"] = len(config["id2label"])
    return out


if __name__ == "__main__":
    main()
