"""`hfmem cache` shows and clears what earlier runs stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import HubServer, shard

from hfmem.cli import main


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0), capsys.readouterr().out


def test_cache_lists_and_clears(hub: HubServer, facts_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 8,
        "max_position_embeddings": 64,
    }
    repo = hub.add(
        "org/small", {"config.json": config, "model.safetensors": shard([("model.norm.weight", "F32", (8,))])}
    )
    assert json.loads(_run(capsys, "cache", "--json")[1])["entries"] == []
    assert _run(capsys, "org/small")[0] == 0
    (facts_dir / "mine.txt").write_text("not ours to remove")
    found = json.loads(_run(capsys, "cache", "--json")[1])
    assert [(e["id"], e["revision"]) for e in found["entries"]] == [("org/small", repo.commit)]
    assert found["folder"] == str(facts_dir) and found["entries"][0]["bytes"] > 0
    assert "org/small" in _run(capsys, "cache")[1]
    assert "1 model removed" in _run(capsys, "cache", "--clear")[1]
    assert json.loads(_run(capsys, "cache", "--json")[1])["entries"] == []
    assert (facts_dir / "mine.txt").exists()
