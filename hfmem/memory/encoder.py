"""The largest batch of images that vLLM runs through a vision encoder while it profiles memory.

Read from vLLM 0.33.0, `multimodal/encoder_budget.py` (`MultiModalBudget`) and the processors in `model_executor/models/`: as
many of the largest item as the budget holds, which is the tokens of one step or one item, whichever is more. What one item may be
is a fact of the model's processor; where it is not known the budget is taken to be filled, and `known` says so.
"""

from __future__ import annotations

from typing import Final

from hfmem.model.vision_facts import VisionTower
from hfmem.records import dataclass
from hfmem.remembered import remembered

#: model type → tokens of the largest image with the processor's published limits: 16384 of Qwen (12,845,056 pixels of 28 × 28, or
#: 16,777,216 of 32 × 32); GLM-4.1V 9,633,792 pixels of 28 × 28; Llama 4 16 tiles and the whole
_TOKENS: Final[dict[str, int]] = {
    **dict.fromkeys(
        (
            *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
            *("qwen2_5_omni", "qwen3_omni_moe", "dots_ocr", "qwen3_next_vl"),
        ),
        16384,
    ),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm4v_text"), 12288),
    "llama4": 2448,
    "gemma4": 2496,
    "minicpmv": 640,
}
#: text tokens for one encoder output where the config does not say otherwise
_MERGE: Final = 2
#: activations that keep one more copy of the wide layer: x · sigmoid(1.702 x) is not one kernel
_UNFUSED: Final = frozenset({"quick_gelu"})
#: InternVL's tiles where the config does not say how many
_TILES: Final = 12


@dataclass(frozen=True, slots=True)
class EncoderProfile:
    """One profiling run: `tokens` go to the language model, `patches` through a tower `hidden` wide, `inner` in its feed-forward
    with `copies` of it live. `known`: the largest item is a fact, not the whole budget for want of one. `deep`: how many inner
    layers' outputs go to the language model beside the last one's. `pixels`: values of one patch, which stay on the device until
    the run ends."""

    tokens: int
    patches: int
    hidden: int
    inner: int
    copies: int
    known: bool
    deep: int = 0
    pixels: int = 0

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the images that the run is made with, in half precision (`batched_dummy_mm_inputs` in `profile_run`)."""
        return self.patches * self.pixels * 2

    def output_bytes(self, width: int) -> int:
        """Bytes of the tower's output for a language model `width` wide, which the encoder's cache keeps while text is profiled.

        Inner layers' outputs stand beside the last one's (`qwen3_vl.py`, `torch.cat([hidden_states] + deepstack_feature_lists)`).
        """
        return self.tokens * width * (1 + self.deep) * 2

    def live_bytes(self, tp: int) -> int:
        """Bytes live at the widest place of one of the tower's blocks, 2 an element: residual, normed input, and the wide layer.

        Towers whose inner layers go to the language model too take three times as much: Qwen3-VL-30B-A3B on H100s, 4.4 GiB at TP 1.
        """
        block = self.patches * 2 * (2 * self.hidden + self.copies * (-(-self.inner // tp)))
        return block * 3 if self.deep else block


@remembered
def encoder_profile(tower: VisionTower, budget: int, held: int | None = None) -> EncoderProfile:
    """The profiling run of a model with a vision tower.

    Args:
        budget: tokens of one step (`max_num_batched_tokens`).
        held: tokens of the encoder's cache, as vLLM logs them. A video may ask for more of them than its dummy fills.
    """
    copies = 3 if tower.gated or tower.activation in _UNFUSED else 2
    item, patches, known = _largest_item(tower)
    items = max(budget // item, 1) if item else 1
    tokens = item * items if item else budget
    batch = patches * items if item else tokens * _MERGE**2
    pixels = 3 * tower.patch_size**2 * max(tower.patch_frames, 1)
    return EncoderProfile(held or tokens, batch, tower.hidden, tower.inner, copies, known, tower.inner_outputs, pixels)


def _largest_item(tower: VisionTower) -> tuple[int, int, bool]:
    """(tokens, patches, whether that is known) of one image; 0 tokens: not known."""
    kind, grid = tower.model_type, tower.patches_per_image
    merge = tower.merge or _MERGE
    if tower.tokens_per_image is not None and grid:  # Gemma 3: one size of image
        return tower.tokens_per_image, grid, True
    if kind in _TOKENS:
        return _TOKENS[kind], _TOKENS[kind] * merge**2, True
    if kind in ("mistral3", "pixtral") and grid:
        merge = merge if tower.projector_merge is None else tower.projector_merge
        return grid // merge**2, grid, True
    if grid and (
        tower.most_tiles is not None or kind.startswith("internvl")
    ):  # tiles and a thumbnail, four patches a token
        count = (_TILES if tower.most_tiles is None else tower.most_tiles) + 1
        return count * grid // 4, count * grid, True
    if kind == "llava" and grid:
        return grid, grid + 1, True
    if kind in ("llava_next", "llava_onevision") and grid:  # four tiles, the whole, and a token a row
        return 5 * grid + 48, 5 * (grid + 1), True
    return 0, 0, False
