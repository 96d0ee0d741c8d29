"""From the keys and tensors of a GGUF file to an architecture: llama.cpp's own rules, by the exact name of the architecture.

Layers follow `load_arch_hparams` and the caches of llama.cpp (see `gguf_tables`); the inventory is what the file stores, since a
GGUF file is complete by itself: its tensors are its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fractions import Fraction
from typing import Any, Final

from hfmem.checkpoint.tensors import Box, Checkpoint, TensorGroup
from hfmem.errors import ContradictionError, MissingKeyError, UnknownArchitectureError, UnsupportedError
from hfmem.model.architecture import Architecture, Note
from hfmem.model.families import gguf_tables as tables
from hfmem.model.families.gguf_keys import Keys
from hfmem.model.families.gguf_layers import Attention, read_layers
from hfmem.model.inventory import Column, Component, ExpertSplit, Replicated, Row, Split, TensorSpec, Vocab, as_ranges
from hfmem.model.layers import Layer
from hfmem.model.names import classify, is_buffer_name

_COMPONENTS: Final = {
    "token_embd": Component.EMBEDDING,
    "per_layer_token_embd": Component.EMBEDDING,
    "position_embd": Component.EMBEDDING,
    "token_types": Component.EMBEDDING,
    "output": Component.LM_HEAD,
    "exp_probs_b": Component.EXPERTS,
    "ffn_gate_inp": Component.EXPERTS,
}
_SPLITS: Final[dict[str, Split]] = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up", "ffn_gate_shexp", "ffn_up_shexp"), Column()),
    **dict.fromkeys(("attn_output", "ffn_down", "ffn_down_shexp"), Row()),
    **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), ExpertSplit(None, Column())),
    "ffn_down_exps": ExpertSplit(None, Row()),
    "token_embd": Vocab(),
    "output": Vocab(),
}


def read_gguf(values: Mapping[str, Any], checkpoint: Checkpoint, file: str) -> Architecture:
    """The architecture of a model whose GGUF keys are `values` (arrays as lists) and whose tensors are `checkpoint`.

    Raises:
        UnknownArchitectureError: no rule for this `general.architecture`.
        MissingKeyError, ContradictionError: keys that a rule needs are missing, or exclude each other.
    """
    name = values.get("general.architecture")
    if not isinstance(name, str) or not name:
        raise MissingKeyError(f"{file}: the key general.architecture is missing")
    if name in tables.NOT_YET:
        raise UnsupportedError(f"{file}: general.architecture {name!r} is llama.cpp's, and its cache is not known here")
    if name not in tables.KNOWN:
        near = get_close_matches(name, sorted(tables.KNOWN), 1, 0.6)
        hint = f"; nearest: {near[0]}" if near else ""
        raise UnknownArchitectureError(f"{file}: general.architecture {name[:60]!r} is not known{hint}")
    keys = Keys(values, name, file)
    drafts = keys.opt("nextn_predict_layers") or 0
    if drafts >= keys.num_layers:
        raise ContradictionError(
            f"{file}: {name}.nextn_predict_layers is {drafts} of {name}.block_count {keys.num_layers}"
        )
    layers, attention, notes = read_layers(keys, drafts)
    experts = keys.opt("expert_count") or None
    used = max(keys.per_layer("expert_used_count", [0])) or None
    if experts and used and used > experts:
        raise ContradictionError(f"{file}: {name}.expert_used_count is {used} of {experts} experts")
    tensors = tuple(_inventory(checkpoint.groups, keys.num_layers - drafts, experts, used))
    return Architecture(
        family="gguf",
        model_type=name,
        architectures=(),
        dtype="F16",  # what llama.cpp computes and caches in unless told otherwise
        hidden_size=keys.positive("embedding_length"),
        num_hidden_layers=_hidden_layers(keys, layers, drafts),
        num_attention_heads=attention.heads if attention else None,
        num_kv_heads=attention.kv_heads if attention else None,
        head_dim=attention.key_length if attention else None,
        vocab_size=_vocabulary(keys, checkpoint.groups),
        max_position_embeddings=keys.opt("context_length"),
        layers=tuple(layers),
        tensors=tensors,
        tie_word_embeddings=not any(group.pattern == "output.weight" for group in checkpoint.groups),
        intermediate_size=max(keys.per_layer("feed_forward_length", [0])) or None,
        num_experts=experts,
        num_experts_per_tok=used,
        rope_scaled=keys.raw("rope.scaling.type") not in (None, "none")
        or any(group.pattern.startswith(("rope_freqs", "rope_factors")) for group in checkpoint.groups),
        notes=tuple(notes),
    )


def _hidden_layers(keys: Keys, layers: Sequence[Layer], drafts: int) -> int:
    decoding = sum(1 for layer in layers if layer.stack == "decoder")
    return decoding or keys.num_layers - drafts


def _vocabulary(keys: Keys, groups: Sequence[TensorGroup]) -> int:
    for group in groups:
        if group.pattern == "token_embd.weight" and len(group.shape) == 2:
            return group.shape[0]
    known = keys.opt("vocab_size")
    tokens = keys.values.get("tokenizer.ggml.tokens")
    if known is None and isinstance(tokens, dict) and isinstance(tokens.get("length"), int):
        known = tokens["length"]
    if known is None and isinstance(tokens, list):
        known = len(tokens)
    if known is None:
        raise MissingKeyError(
            f"{keys.file}: neither token_embd.weight nor {keys.name('vocab_size')} tells the vocabulary"
        )
    return known


def _inventory(
    groups: Sequence[TensorGroup], num_layers: int, experts: int | None, used: int | None
) -> list[TensorSpec]:
    """What the file stores, tensor for tensor; layers from `num_layers` on predict further tokens."""
    share = Fraction(used, experts) if experts and used else Fraction(1)
    specs: list[TensorSpec] = []
    for group in groups:
        in_block = group.pattern.startswith("blk.{}.")
        main, later = _cut(group.boxes, num_layers) if in_block else (group.boxes, ())
        for boxes, predicts in ((main, False), (later, True)):
            if boxes:
                specs.append(_spec(group, boxes, predicts, share, 0 if "blk.{}." in group.pattern else None))
    return specs


def _spec(
    group: TensorGroup, boxes: tuple[Box, ...], predicts: bool, share: Fraction, layer_axis: int | None
) -> TensorSpec:
    parts = [part for part in group.pattern.split(".") if part != "{}"]
    module = parts[-2] if len(parts) > 1 else parts[-1]
    component = Component.MTP if predicts else _COMPONENTS.get(module) or classify(group.pattern)
    routed = "_exps" in module
    split = (
        _SPLITS.get(module, Replicated())
        if len(group.shape) > 1 and parts[0] in ("blk", "token_embd", "output")
        else None
    )
    buffer = is_buffer_name(group.pattern, group.shape) or module.startswith(("rope_freqs", "rope_factors"))
    return TensorSpec(
        group.pattern,
        group.shape,
        boxes,
        component,
        split or Replicated(),
        Fraction(0) if predicts else share if routed else Fraction(1),
        buffer=buffer,
        layer_axis=layer_axis,
    )


def _cut(boxes: Sequence[Box], at: int) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
    """The boxes with a first index below `at`, and the others."""
    below: list[Box] = []
    above: list[Box] = []
    for box in boxes:
        first, rest = box[0], box[1:]
        below += [(piece, *rest) for piece in as_ranges(i for i in first if i < at)]
        above += [(piece, *rest) for piece in as_ranges(i for i in first if i >= at)]
    return tuple(below), tuple(above)


__all__ = ["Attention", "Note", "read_gguf"]
