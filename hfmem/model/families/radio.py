"""C-RADIO, NVIDIA's vision encoder: a ViT whose positions cover `max_img_size`, several class tokens and registers.

Sources: transformers 5.23.0 `models/radio`, vLLM 0.33.0 `radio.py` and `transformers_utils/configs/radio.py` (sizes by name);
names as published.
"""

from __future__ import annotations

from hfmem.model.config import Config
from hfmem.model.families import vision
from hfmem.model.families.parts import ROW, Part

#: timm's names → width, blocks, feed-forward
_VITS = {
    "vit_small_patch16_224": (384, 12, 1536),
    "vit_base_patch16_224": (768, 12, 3072),
    "vit_large_patch16_224": (1024, 24, 4096),
    "vit_huge_patch16_224": (1280, 32, 5120),
    "vit_so400m_patch16_224": (1152, 27, 4304),
}


def radio(part: Part, cfg: Config, *, temporal: int | None = None) -> tuple[int, int]:
    """Blocks and width. Sizes are in the config, or a name in its `args` as NVIDIA publishes it.

    `temporal`: frames that the video embedder takes at once, where the outer config says.
    """
    args = cfg.opt_sub("args")
    frames = temporal or cfg.opt_int("video_temporal_patch_size") or 1
    if args is None:
        width, count, patch = cfg.positive("hidden_size"), cfg.positive("num_hidden_layers"), cfg.positive("patch_size")
        inner, longest = int(width * (cfg.opt_float("mlp_ratio") or 4.0)), cfg.positive("max_img_size")
        tokens = cfg.positive("num_cls_tokens") + cfg.need_int("num_registers")
        bias = cfg.flag("qkv_bias", default=True)
    else:
        name = args.opt_str("model") or ""
        width, count, inner = _VITS[args.choice("model", name, tuple(_VITS))]
        patch, longest, bias = cfg.opt_int("patch_size") or 16, args.opt_int("cpe_max_size") or 2048, True
        tokens = _tokens(args)
    gen = part.at("model.patch_generator.")
    gen.tensor("cls_token.token", (tokens, width))
    gen.tensor("pos_embed", (1, (longest // patch) ** 2, width))
    gen.linear("embedder", width, 3 * patch**2, bias=False)
    if frames > 1:
        gen.linear("video_embedder", width, 3 * frames * patch**2, bias=False)
    block = part.at("model.blocks.{}.", range(count))
    vision.fused_projection(block.at("attn."), "qkv", width, bias=bias)
    block.linear("attn.proj", width, width, split=ROW)
    vision.mlp(block.at("mlp."), width, inner)
    block.norms(("norm1", "norm2"), width)
    for leaf in ("layer_scale1.lambda1", "layer_scale2.lambda1"):  # ones that only transformers itself writes
        block.tensor(leaf, (width,), buffer=True, optional=True)
    part.tensor("summary_idxs", (2,), buffer=True, optional=True)
    for leaf in ("norm_mean", "norm_std"):
        part.tensor(f"input_conditioner.{leaf}", (3, 1, 1), buffer=True, optional=True)
    return count, width


def _tokens(args: Config) -> int:
    """Class tokens, one a teacher, and registers up to the next multiple."""
    teachers = args.opt_list("teachers") or []
    names = {teacher.get("name") for teacher in teachers if isinstance(teacher, dict)}
    classes = len(names) if args.flag("cls_token_per_teacher", default=False) and names else 1
    registers = args.opt_int("num_registers")
    if registers is None:
        multiple = args.opt_int("register_multiple")
        registers = multiple - classes % multiple if multiple else 0
    return classes + registers
