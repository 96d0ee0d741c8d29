"""A model of a type that no rule covers: read as a known one where its files hold that one's tensors, refused with what is sure."""

from __future__ import annotations

from collections.abc import Sequence

from hfmem.checkpoint.quantization import logical_groups
from hfmem.checkpoint.quantization_config import Quantization
from hfmem.checkpoint.tensors import Checkpoint, TensorGroup
from hfmem.errors import UnknownArchitectureError
from hfmem.hub import ModelFacts
from hfmem.model.architecture import Architecture
from hfmem.model.crosscheck import check, contradictions
from hfmem.model.families.unnamed import candidates
from hfmem.model.parameters import with_stored_dtype


def confirmed(
    facts: ModelFacts, checkpoint: Checkpoint, quantization: Quantization | None, refusal: UnknownArchitectureError
) -> Architecture:
    """The first reading of the config that headers do not contradict.

    Raises:
        UnknownArchitectureError: there is none; the message adds to `refusal` what contradicts the text model that the config
            names, and what the files hold.
    """
    logical: Sequence[TensorGroup] = logical_groups(checkpoint, quantization)
    against = ""
    for architecture in candidates(facts.config, facts.config_file):
        worst = contradictions(check(with_stored_dtype(architecture, checkpoint.groups), checkpoint, logical))
        if not worst:
            return architecture
        if architecture.text_type and not against:
            against = f"; read as its text part says, {worst[0].message}"
    parameters = sum(group.total_elements for group in logical)
    held = f"; its files hold {parameters:,} parameters in {checkpoint.total_bytes:,} bytes"
    raise UnknownArchitectureError(f"{refusal}{against}{held}")
