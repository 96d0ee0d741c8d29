"""The most that fits, and the least that is needed: one setting of a configuration found by exact search.

Every answer fits by the middle of the estimates, and the next number does not. Where no number fits, the setting's default stands
and the report says what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hfmem.api.configuration import DEFAULT_CONTEXT, Configuration
from hfmem.model.architecture import Note
from hfmem.plan.layouts import all_layouts
from hfmem.records import replace

#: devices of one machine where the catalogue does not say, and the most that are tried
NODE: Final = 8
MOST_DEVICES: Final = 64


def solved(found: Configuration, unknown: str) -> Configuration:
    """`found` with its one unknown setting (`hfmem.api.given.UNKNOWNS`) replaced by the answer.

    Raises:
        UnsupportedError: the engine refuses the model or the layout.
    """
    assert found.target is not None
    scale, serving = found.scale(), found.serving
    match unknown:
        case "context":
            default = found.read.architecture.max_position_embeddings or DEFAULT_CONTEXT
            return found.serve(context=scale.max_context(serving) or default)
        case "num_seqs":
            return found.serve(num_seqs=scale.max_num_seqs(serving) or 1)
        case "gpu_layers":
            return found.serve(llama_cpp=replace(serving.llama_cpp, gpu_layers=scale.max_gpu_layers(serving)))
        case "utilization":
            share = scale.min_utilization(serving)
            if share is None:
                return _unsolved(found, "no --utilization is enough, be it the whole device")
            return replace(found, target=replace(found.target, utilization=share))
        case _:
            most = min(MOST_DEVICES, found.target.most or MOST_DEVICES)
            return fewest_devices(found) or _unsolved(found, f"no number of devices up to {most} is enough")


def _unsolved(found: Configuration, why: str) -> Configuration:
    """`found` as it was asked for, with a warning."""
    return replace(found, notes=(*found.notes, Note("no_solution", why)))


def fewest_devices(found: Configuration, more_than: int = 0) -> Configuration | None:
    """The fewest devices of its kind on which `found` fits, more than `more_than` of them; None: not on `MOST_DEVICES`.

    Up to a machine's worth every number is tried, beyond it whole machines. Sizes that were given are kept.

    Raises:
        UnsupportedError: the engine refuses the model itself.
    """
    target, serving = found.target, found.serving
    assert target is not None
    found.scale().weights(replace(serving, tp=1, pp=1, attn_dp=1))  # what is refused on one device is refused here
    node = target.device.gpus_per_node or NODE
    for count in device_counts(node, min(MOST_DEVICES, target.most or MOST_DEVICES)):
        if count <= more_than or count % serving.dp:
            continue
        on = replace(target, num_devices=count)
        scale = found.scale(on)
        for tp, pp in layouts(found, count // serving.dp, node):
            if scale.fits(replace(serving, tp=tp, pp=pp)):
                return found.place(on, tp, pp)
    return None


def device_counts(node: int, most: int) -> list[int]:
    """Numbers of devices worth trying: every one in a machine of `node`, whole machines beyond."""
    return [*range(1, min(node, most) + 1), *range(2 * node, most + 1, node)]


def layouts(found: Configuration, ranks: int, node: int) -> Iterator[tuple[int, int]]:
    """Sizes over `ranks` ranks that the engine and the model may take, those that were given kept."""
    serving = found.serving
    for tp, pp in all_layouts(ranks, serving.engine, node):
        if (found.tp_given and tp != serving.tp) or (found.pp_given and pp != serving.pp) or tp % serving.attn_dp:
            continue
        if pp <= max(found.read.architecture.num_hidden_layers, 1):
            yield tp, pp
