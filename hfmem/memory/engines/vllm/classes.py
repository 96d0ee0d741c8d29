"""What vLLM's registry says of the class that serves a model: pipeline stages, pooling, prompts in chunks.

The table is written by `scripts/build_vllm_classes.py`. The rules are those of vLLM 0.33.0 `config/model.py`
(`_get_default_runner_type`, `attn_type`, `is_chunked_prefill_supported`), `engine/arg_utils.py`
(`_set_default_max_num_seqs_and_batched_tokens_args`) and `config/scheduler.py` (`verify_max_model_len`).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from hfmem.errors import UnsupportedError
from hfmem.memory.engines.vllm.releases import DEFAULT_MAX_NUM_BATCHED_TOKENS
from hfmem.memory.serving import Serving
from hfmem.model.architecture import Architecture
from hfmem.model.layers import NoCache

#: endings of class names outside the registry, and whether such a model pools (`_SUFFIX_TO_DEFAULTS`; the first that fits decides)
_ENDINGS: Final = (
    *((name, False) for name in ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")),
    *((name, True) for name in ("ForTextEncoding", "Classification", "ClassificationModel", "RewardModeling", "Model")),
)


@cache
def _table() -> dict[str, frozenset[str]]:
    text = Path(__file__).with_name("data").joinpath("classes.json").read_text(encoding="utf-8")
    classes: dict[str, str] = json.loads(text)["classes"]
    return {name: frozenset(words.split()) for name, words in classes.items()}


def words_of(arch: Architecture) -> frozenset[str]:
    """What the table says of the first of the config's classes that vLLM has; nothing for none."""
    return next((_table()[name] for name in arch.architectures if name in _table()), frozenset())


def pools(arch: Architecture, serving: Serving) -> bool:
    """Whether the model embeds, ranks or classifies: vLLM resolves `--runner auto` to `pooling`."""
    if serving.pooling:
        return True
    for name in arch.architectures:
        if words := _table().get(name):
            return "pools" in words
        for ending, pooling in _ENDINGS:
            if name.endswith(ending):
                return pooling
    return False


def chunks_prefill(arch: Architecture, serving: Serving) -> bool:
    """Whether a prompt may be computed over several steps. What pools over all tokens, or attends both ways, takes it in one."""
    if not pools(arch, serving):
        return True  # encoder-decoder models, which do not, are refused or bounded elsewhere
    words = words_of(arch)
    decoder = [layer for layer in arch.layers if layer.stack == "decoder"]
    both_ways = all(isinstance(c, NoCache) for layer in decoder for c in layer.caches)
    return not (both_ways or words & {"attn=encoder_only", "pool=CLS", "pool=MEAN", "tokens=STEP"})


def batched_tokens(arch: Architecture, serving: Serving) -> int:
    """Tokens of one step: `--max-num-batched-tokens`, else the device's default, and the whole context where prompts are not cut.

    Raises:
        UnsupportedError: fewer were given than vLLM accepts for the context or for the sequences at once.
    """
    given, seqs = serving.max_num_batched_tokens, serving.max_num_seqs
    whole = not chunks_prefill(arch, serving)
    if given is None:
        tokens = serving.device_batched_tokens or DEFAULT_MAX_NUM_BATCHED_TOKENS
        tokens = max(tokens, serving.context) if whole else tokens
        return tokens if seqs is None else min(tokens, seqs * serving.context)
    if whole and given < serving.context:
        raise UnsupportedError(
            f"max_num_batched_tokens ({given}) is smaller than max_model_len ({serving.context}), and "
            f"{arch.model_type} models take a prompt in one step: vLLM wants more of the one or less of the other"
        )
    if seqs is not None and given < seqs:
        raise UnsupportedError(
            f"max_num_batched_tokens ({given}) must be greater than or equal to max_num_seqs ({seqs})"
        )
    return given


def has_stages(arch: Architecture) -> bool | None:
    """Whether the class has pipeline stages (`SupportsPP`); None: the table does not know it."""
    words = words_of(arch)
    return "pp" in words if words else None
