"""What tests of the transport share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_server import HubServer, sharded
from raw_http import CLIENTS


@pytest.fixture
def model(hub: HubServer) -> str:
    parts = {f"model-{i}-of-3.safetensors": [(f"layers.{i}.w", "BF16", (8, 8))] for i in range(3)}
    hub.add("org/m", {"config.json": {"model_type": "llama"}, **sharded(parts)})
    hub.metadata_route = False
    return "org/m"


@pytest.fixture(autouse=True)
def _clients_end() -> Iterator[None]:
    yield
    while CLIENTS:
        CLIENTS.pop().close()
