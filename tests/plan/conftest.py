"""What tests of the planner share."""

from __future__ import annotations

import pytest
from llama_on_devices import LLAMA

from hfmem.api.estimates import Model, read_model
from hfmem.hub import FetchOptions


@pytest.fixture(scope="module")
def llama() -> Model:
    """Llama 3 8B from the shipped catalogue."""
    return read_model(LLAMA, fetch=FetchOptions(offline=True, no_cache=True))
