"""What is loaded while the first answers are waited for."""

from __future__ import annotations

import os
import subprocess
import sys

from hub_models import CONFIG, TENSORS
from hub_server import HubServer, shard
from repository import ROOT

from hfmem.cli.loading import load_ahead


def loaded(code: str) -> str:
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout.strip().splitlines()[-1]


def test_an_estimate_needs_no_more_than_what_was_loaded_ahead(hub: HubServer) -> None:
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    hub.add("org/m", {"config.json": {**CONFIG, **sizes}, "model.safetensors": shard(TENSORS)})
    code = (
        "import sys\nfrom hfmem import cli\nfrom hfmem.hub.live import Live\n"
        "def wait(self, first):\n    self.options.meanwhile(lambda: True)\n    before.update(sys.modules)\n"
        "before, Live._meanwhile = set(), wait\n"
        "try:\n    cli.main(['org/m'])\nexcept SystemExit as end:\n    assert not end.code\n"
        "late = [name for name in sys.modules if name.startswith('hfmem.') and name not in before]\n"
        "print(len(before) > 100, late)"
    )
    assert loaded(code) == "True []"


def test_nothing_is_loaded_once_an_answer_is_there() -> None:
    asked: list[None] = []

    def is_waiting() -> bool:
        asked.append(None)
        return len(asked) <= 2

    load_ahead(is_waiting)
    assert len(asked) == 3
    names = "'hfmem.checkpoint.logical', 'hfmem.model.families.registry', 'hfmem.api.assembly'"
    code = (
        "import sys\nfrom hfmem.cli.loading import load_ahead\nanswers = iter([True, True, False])\n"
        f"load_ahead(lambda: next(answers))\nprint([name in sys.modules for name in ({names})])"
    )
    assert loaded(code) == "[True, True, False]"
