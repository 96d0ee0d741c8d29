"""What a config says of a vision encoder, for engines that ask before they have built one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hfmem.errors import ContradictionError
from hfmem.model.config import Config
from hfmem.records import dataclass

#: activations that keep a copy of the wide layer for the gate, and types whose encoder has one whatever its config says
_GATED: Final = "silu"
_GATED_TYPES: Final = frozenset({"qwen2_5_vl", "pixtral", "mistral3"})
#: model type → the tower's activation where the config leaves it to its class
_ACTIVATIONS: Final = {"qwen2_vl": "quick_gelu"}
#: width of the feed-forward over that of the tower, where the config does not tell
_RATIO: Final = 4
_MOST_RATIO: Final = 1 << 10


@dataclass(frozen=True, slots=True)
class VisionTower:
    """Sizes of `vision_config`, 0 for those that it leaves out: `hidden` wide and `inner` in the feed-forward, patches and images
    in pixels a side, frames of a video in one patch, patches a side that one token takes (`merge`), and how many inner layers'
    outputs go to the language model. What stands beside that part is None where it does not: tokens of an image of one size
    (`mm_tokens_per_image`), the projector's own merging, the most tiles that an image is cut into."""

    model_type: str
    hidden: int
    inner: int
    activation: str
    gated: bool
    patch_size: int = 0
    image_size: int = 0
    patch_frames: int = 0
    merge: int = 0
    inner_outputs: int = 0
    tokens_per_image: int | None = None
    projector_merge: int | None = None
    most_tiles: int | None = None

    @property
    def patches_per_image(self) -> int:
        """Of an image of the size that the config names; 0 where it names none."""
        return (self.image_size // self.patch_size) ** 2 if self.patch_size and self.image_size else 0


def vision_tower(data: Mapping[str, Any], file: str) -> VisionTower | None:
    """The encoder that a parsed config describes; None where it describes none, or not its width.

    Raises:
        ContradictionError: a ratio of widths that no model has, infinities and NaN included.
    """
    thinker = data.get("thinker_config")
    data = thinker if isinstance(thinker, Mapping) else data
    vision = data.get("vision_config")
    if not isinstance(vision, Mapping):
        return None

    def number(*keys: str) -> int:
        return next((value for key in keys if isinstance(value := vision.get(key), int) and value > 0), 0)

    hidden = number("hidden_size", "embed_dim", "width")
    if not hidden:
        return None
    ratio = vision.get("mlp_ratio")
    ratio = ratio if isinstance(ratio, int | float) else None
    if ratio is not None and not 0 < ratio <= _MOST_RATIO:
        raise ContradictionError(f"{file}: vision_config: 'mlp_ratio' is {ratio}, beyond any real model")
    if isinstance(vision.get("embed_dim"), int) and ratio is not None:
        hidden = vision["embed_dim"]  # Qwen2-VL's `hidden_size` is the language model's
    model_type = str(data.get("model_type") or "")
    activation = str(vision.get("hidden_act") or _ACTIVATIONS.get(model_type, ""))
    layers = vision.get("deepstack_visual_indexes")
    return VisionTower(
        model_type=model_type,
        hidden=hidden,
        inner=number("intermediate_size", "mlp_dim") or int(hidden * (_RATIO if ratio is None else ratio)),
        activation=activation,
        gated=activation == _GATED or model_type in _GATED_TYPES,
        patch_size=number("patch_size"),
        image_size=number("image_size"),
        patch_frames=number("temporal_patch_size"),
        merge=number("spatial_merge_size"),
        inner_outputs=len(layers) if isinstance(layers, list) else 0,
        tokens_per_image=_int(data, "mm_tokens_per_image"),
        projector_merge=_int(data, "spatial_merge_size"),
        most_tiles=_int(data, "max_dynamic_patch"),
    )


def _int(data: Mapping[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) else None


def vision_size(data: Mapping[str, Any]) -> tuple[int | None, int | None] | None:
    """`num_hidden_layers` and `hidden_size` of `vision_config`, the class's where it leaves them out; None for one that has no key
    of that name (Qwen's says `depth`) or no number there that a model could have. None for a model without that part."""
    if not isinstance(data.get("vision_config"), Mapping):
        return None
    part = Config(data).opt_sub("vision_config")
    return None if part is None else (_whole(part, "num_hidden_layers"), _whole(part, "hidden_size"))


def _whole(part: Config, name: str) -> int | None:
    value = part.lookup(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else None
