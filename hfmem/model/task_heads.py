"""What a published decoder class is for, by its name, and the head it has instead of the output projection.

Source: transformers 5.23.0 `modeling_layers.py` (`GenericForSequenceClassification`, `GenericForTokenClassification`) and, for
rewards, Qwen/Qwen2.5-Math-RM-72B `modeling_qwen2_rm.py`.
"""

from __future__ import annotations

from typing import Final

from hfmem.model.config import Config

#: ends of class names, first match wins; ChatGLM's and the GPTs' language models are also called …Model
_TASKS: Final = {
    "ForSequenceClassification": "classifier",
    "ForTokenClassification": "tagger",
    "ForRewardModel": "reward",
    "ForProcessRewardModel": "reward",
    "LMHeadModel": "lm",
    "HeadsModel": "lm",
    "ChatGLMModel": "lm",
    "DreamModel": "lm",
    "Model": "none",
}


def task_of(cfg: Config) -> str:
    """The published class: "lm", "classifier", "tagger", "reward", or "none" (a bare `…Model`, as embedders are)."""
    classes = cfg.published("architectures")
    name = classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
    for suffix, task in _TASKS.items():
        if name.endswith(suffix):
            return task
    return "lm"


def head_tensors(task: str, cfg: Config, hidden: int, classifier: str, tagger: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the task's head; `classifier` and `tagger` are what the class calls it."""
    labels = num_labels(cfg)
    match task:
        case "classifier":
            return {f"{classifier}.weight": (labels, hidden)}
        case "tagger":
            return {f"{tagger}.weight": (labels, hidden), f"{tagger}.bias": (labels,)}
        case "reward":  # a reward is one number, a step's verdict one of the labels
            count = labels if cfg.published("num_labels", "id2label") is not None else 1
            return {
                "score.0.weight": (hidden, hidden),
                "score.0.bias": (hidden,),
                "score.2.weight": (count, hidden),
                "score.2.bias": (count,),
            }
        case _:
            return {}


def num_labels(cfg: Config) -> int:
    """`num_labels`, else the length of `id2label`, else 2: what transformers' configuration base class assumes."""
    count = cfg.published("num_labels")
    if isinstance(count, int) and not isinstance(count, bool) and count > 0:
        return count
    names = cfg.published("id2label")
    return len(names) if isinstance(names, dict) and names else 2
