"""What drafts, in the words of vLLM and SGLang.

Read from vLLM 0.33.0 `config/speculative.py` (methods; vocabularies of one size, unless told otherwise), `models/registry.py` and
`transformers_utils/configs/{eagle,speculators}` (class names of heads, P-EAGLE); SGLang 0.5.23 `srt/speculative/spec_info.py`
(algorithms), `srt/arg_groups/speculative_hook.py` (what each of them takes), the `EntryClass` lists of `srt/models/`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hfmem.errors import UsageError
from hfmem.plan.launch.words import reference

if TYPE_CHECKING:
    from hfmem.memory.drafts import Method
    from hfmem.plan.launch.settings import Launch

_IN_VLLM: Final[dict[Method, str]] = {
    "model": "draft_model",
    "mtp": "mtp",
    "eagle": "eagle",
    "eagle3": "eagle3",
    "peagle": "eagle3",
    "dflash": "dflash",
    "dspark": "dspark",
}
#: heads whose class the registry does not have once the method's name is put in front
_NOT_IN_VLLM: Final = frozenset(
    {
        *("LlamaForCausalLMEagle", "QwenDFlashDraftModel", "DominoDraftModel", "MiniMaxDFlash2DraftModel"),
        *("LingDSparkModel", "Lfm2DSparkDraftModel"),
    }
)
#: NEXTN is EAGLE's alias, which DeepSeek V4 does not take; Gemma 4's assistants are told from its config
_IN_SGLANG: Final[dict[Method, str]] = {
    "model": "STANDALONE",
    "mtp": "EAGLE",
    "eagle": "EAGLE",
    "eagle3": "EAGLE3",
    "dflash": "DFLASH",
    "dspark": "DSPARK",
}
#: algorithms that draft a block at once
_BLOCKS: Final = ("DFLASH", "DSPARK")
#: classes of heads
_SGLANGS: Final = frozenset(
    {
        *("LlamaForCausalLMEagle", "LlamaForCausalLMEagle3", "Eagle3DeepseekV2ForCausalLM", "DFlashDraftModel"),
        *("DFlashLagunaForCausalLM", "MuseGlimmerAssistantModel", "DFlash2DraftModel", "DFlash2BeamDraftModel"),
        *(
            "MiniMaxDFlash2DraftModel",
            "Qwen3DSparkModel",
            "LingDSparkModel",
            "DSparkDraftModel",
            "Lfm2DSparkDraftModel",
        ),
    }
)


def vllm(launch: Launch) -> list[str]:
    """`--speculative-config` with the method by name, as its detection goes by the repository's name.

    Raises:
        UsageError: a head that vLLM has no class for.
    """
    if launch.draft is None:
        return []
    if launch.draft_class in _NOT_IN_VLLM:
        raise UsageError(f"--emit vllm: vLLM 0.33 has no class for {launch.draft_class} ({launch.draft})")
    told: dict[str, Any] = {"method": _IN_VLLM[launch.draft_method]}
    if launch.draft != "mtp":
        told["model"] = launch.draft
    told["num_speculative_tokens"] = launch.draft_tokens or 1
    if launch.draft_method == "peagle":
        told["parallel_drafting"] = True
    if launch.draft_method == "model" and launch.draft_words_differ:
        told["use_heterogeneous_vocab"] = True
    return ["--speculative-config", json.dumps(told)]


def sglang(launch: Launch) -> list[str]:
    """The algorithm, the draft's path and its sizes, which each algorithm takes in a flag of its own.

    Raises:
        UsageError: a head that SGLang has no algorithm or class for; a layout that the algorithm does not run on.
    """
    if launch.draft is None:
        return []
    algorithm = _IN_SGLANG.get(launch.draft_method)
    head = launch.draft_method not in ("model", "mtp") and launch.draft != "mtp"
    if algorithm is None or (head and launch.draft_class not in _SGLANGS):
        raise UsageError(f"--emit sglang: SGLang 0.5.23 has no class for {launch.draft_class} ({launch.draft})")
    if algorithm == "STANDALONE" and launch.attn_dp > 1:
        raise UsageError("--emit sglang: SGLang drafts with a whole model (STANDALONE) without --attn-dp alone")
    if algorithm in _BLOCKS and launch.pp > 1:
        raise UsageError(f"--emit sglang: SGLang drafts by {algorithm} on one pipeline stage alone")
    words = ["--speculative-algorithm", algorithm]
    words += [] if launch.draft == "mtp" else ["--speculative-draft-model-path", reference(launch.draft)]
    words += ["--enable-dp-lm-head"] if algorithm in _BLOCKS and launch.attn_dp > 1 else []
    return words + ([] if launch.draft_tokens is None else _sizes(algorithm, launch.draft_tokens))


def _sizes(algorithm: str, drafted: int) -> list[str]:
    """Steps and tokens are given together or not at all; DFlash's block holds the token before, DSpark's does not."""
    if algorithm == "DSPARK":
        return ["--speculative-dspark-block-size", str(drafted)]
    steps = [] if algorithm == "DFLASH" else ["--speculative-num-steps", str(drafted), "--speculative-eagle-topk", "1"]
    return [*steps, "--speculative-num-draft-tokens", str(drafted + 1)]
