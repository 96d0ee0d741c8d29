"""Models that keep nothing between tokens and whose tensors no rule lists: what they weigh is what their files hold.

Image, video, audio, time-series and point models of many builds (ResNet, DETR, SAM, CLIP's kin, codecs …), and text encoders used
less. Their cache is nothing by class; an inventory of each would only repeat what headers say exactly. Without headers or an
index there is no answer, and `parameters.count_parameters` says so.

`file_types` lists them.
"""

from __future__ import annotations

from hfmem.model import blocks
from hfmem.model.architecture import Architecture, Note
from hfmem.model.config import Config
from hfmem.model.inventory import Inventory
from hfmem.model.layers import Layer, NoCache
from hfmem.records import replace

UNCHECKED = Note(
    "inventory_unknown", "weights are what the files hold: no rule lists this type's tensors, so nothing checks them"
)


def by_files(cfg: Config) -> Architecture:
    """No inventory and no cache. Width and depth are told where the config has them under a usual name, else 0."""
    hidden, layers = _told(cfg, blocks.HIDDEN), _told(cfg, blocks.LAYERS)
    d = blocks.Dims(hidden, layers, 1, 1, 1)
    layer = Layer((NoCache("encoder"),), stack="encoder")
    vocab, inv = _told(cfg, blocks.VOCAB), Inventory()
    arch = blocks.assemble(cfg, cfg, "files", d, [layer] * layers, inv, vocab=vocab, tied=False, notes=[UNCHECKED])
    return replace(arch, num_attention_heads=None, num_kv_heads=None, head_dim=None, partial=True)


def _told(cfg: Config, names: tuple[str, ...]) -> int:
    """A number where config.json gives one number under one of `names`; stages of many widths have lists there."""
    value = cfg.published(*names)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 20 else 0
