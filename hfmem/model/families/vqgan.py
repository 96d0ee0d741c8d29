"""The VQGAN that turns images into tokens and back, as Janus, Chameleon and Emu 3 store it beside the text model.

Source: transformers 5.23.0 `models/{janus,chameleon,emu3}/modeling_*.py`; names as published.
"""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.model.families.parts import Part


def resnet(part: Part, width: int, out: int) -> None:
    """Two normed 3 × 3 convolutions, and one of 1 × 1 beside them where the width changes."""
    part.norm("norm1", width)
    part.conv("conv1", out, width, (3, 3))
    part.norm("norm2", out)
    part.conv("conv2", out, out, (3, 3))
    if width != out:
        part.conv("nin_shortcut", out, width, (1, 1))


def attention(part: Part, width: int) -> None:
    """Attention over pixels with 1 × 1 convolutions as projections."""
    part.norm("norm", width)
    for name in ("q", "k", "v", "proj_out"):
        part.conv(name, width, width, (1, 1))


def middle(part: Part, width: int, *, attends: bool = True) -> None:
    """Two blocks with attention between."""
    resnet(part.at("block_1."), width, width)
    if attends:
        attention(part.at("attn_1."), width)
    resnet(part.at("block_2."), width, width)


def encoder(
    part: Part,
    channels: int,
    base: int,
    factors: Sequence[int],
    blocks: int,
    attends: Sequence[int],
    latent: int,
    *,
    mid_attention: bool = True,
) -> None:
    """Levels of `base · factor` channels, each but the last halved; `attends` names the levels with attention."""
    part.conv("conv_in", base, channels, (3, 3))
    width = base
    for level, (before, factor) in enumerate(zip((1, *factors), factors, strict=False)):
        at, width = part.at(f"down.{level}."), base * before
        for i in range(blocks):
            resnet(at.at(f"block.{i}."), width, base * factor)
            width = base * factor
            if level in attends:
                attention(at.at(f"attn.{i}."), width)
        if level != len(factors) - 1:
            at.conv("downsample.conv", width, width, (3, 3))
    middle(part.at("mid."), width, attends=mid_attention)
    part.norm("norm_out", width)
    part.conv("conv_out", latent, width, (3, 3))


def decoder(part: Part, channels: int, base: int, factors: Sequence[int], blocks: int, latent: int) -> None:
    """Janus' way back: the widest level first in the list, attention there, one block more a level than the encoder."""
    width = base * factors[-1]
    part.conv("conv_in", width, latent, (3, 3))
    middle(part.at("mid."), width)
    for place, factor in enumerate(reversed(factors)):
        at = part.at(f"up.{place}.")
        for i in range(blocks + 1):
            resnet(at.at(f"block.{i}."), width, base * factor)
            width = base * factor
            if place == 0:
                attention(at.at(f"attn.{i}."), width)
        if place != len(factors) - 1:
            at.conv("upsample.conv", width, width, (3, 3))
    part.norm("norm_out", width)
    part.conv("conv_out", channels, width, (3, 3))
