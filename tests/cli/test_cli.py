"""The command line as a user meets it: words in, one screen or one JSON object out, the exit codes of the contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Run
from hub_server import HubServer, header_bytes, shard, sharded
from small_llama import LLAMA, PARAMETERS, TOKEN_BYTES, llama_tensors


def test_gated_first_command_offline(run: Run) -> None:
    """Llama-3-8B at 128k, from the catalogue: the published counts, and 2 × 8 × 128 × 2 B × 32 layers a token."""
    status, out, _ = run("meta-llama/Meta-Llama-3-8B", "--ctx", "128k", "--json", "--offline")
    report = json.loads(out)
    assert status == 0
    assert report["schema_version"] == 1
    assert report["model"]["source"] == "catalog"
    assert report["parameters"]["total"] == 8_030_261_248
    assert report["weights"]["bytes"] == 16_060_522_496
    assert report["kv_cache"]["bytes_per_token"] == 131_072
    assert report["kv_cache"]["ideal_bytes"] == report["kv_cache"]["bytes"] == 16 * 2**30
    runtime = sum(item["bytes"] for item in report["runtime"].values())
    assert report["total_bytes"] == 16_060_522_496 + 16 * 2**30 + runtime
    assert report["runtime"].pop("loading_bytes")["grade"] == "derived"
    assert all(
        i["low"] <= i["bytes"] <= i["high"] and i["source"] and i["grade"] == "estimated"
        for i in report["runtime"].values()
    )
    warning = next(w for w in report["warnings"] if w["code"] == "context_exceeds_positions")
    assert "131,072" in warning["message"] and "8,192" in warning["message"]


def test_gated_repo_without_token_answers_from_the_catalogue(hub: HubServer, run: Run) -> None:
    hub.add("meta-llama/Meta-Llama-3-8B", {"config.json": LLAMA}, gated=True)
    status, out, _ = run("meta-llama/Meta-Llama-3-8B", "--ctx", "8k")
    assert status == 0
    notice = next(line for line in out.splitlines() if "catalogue" in line)
    assert "gated" in notice and "HF_TOKEN" in notice


def test_local_folder(folder: Path, run: Run) -> None:
    status, out, err = run(str(folder), "--ctx", "1000", "--batch", "3", "--json", "--engine", "ideal")
    report = json.loads(out)
    assert (status, err) == (0, "")
    assert report["model"]["source"] == "local"
    assert report["parameters"]["total"] == PARAMETERS
    assert report["weights"]["bytes"] == 2 * PARAMETERS
    assert report["weights"]["evidence"] == "headers"
    assert report["kv_cache"]["bytes_per_token"] == TOKEN_BYTES
    assert report["kv_cache"]["bytes"] == 3000 * TOKEN_BYTES
    assert report["layers"] == [
        {
            "kind": "full",
            "count": 2,
            "num_kv_heads": 2,
            "head_dim": 16,
            "v_head_dim": 16,
            "window": None,
            "state_bytes": 0,
        }
    ]
    assert report["weights"]["download_bytes"] == (folder / "model.safetensors").stat().st_size


def test_the_engines_limit_is_what_profiling_samples(folder: Path, run: Run) -> None:
    """`--batch` is what the cache holds, `--max-num-seqs` the engine's limit, and both where it stands alone."""

    def found(*words: str) -> dict[str, Any]:
        _, out, _ = run("meta-llama/Meta-Llama-3-8B", "--offline", "--ctx", "1024", "--json", *words)
        return json.loads(out)  # type: ignore[no-any-return]

    plain, limited, both = found(), found("--max-num-seqs", "8"), found("--max-num-seqs", "8", "--batch", "2")
    assert [r["kv_cache"]["num_seqs"] for r in (plain, limited, both)] == [1, 8, 2]
    for name in ("engine_bytes", "cuda_graph_bytes"):  # words that are counted, sizes that are captured
        assert limited["runtime"][name]["bytes"] < plain["runtime"][name]["bytes"]
        assert both["runtime"][name] == limited["runtime"][name]
    assert plain["runtime"]["cuda_graph_bytes"] and found("--enforce-eager")["runtime"]["cuda_graph_bytes"] is None


def test_rows_that_would_read_nothing(folder: Path, run: Run) -> None:
    """JSON and exact bytes keep them."""
    _, out, _ = run(str(folder), "--ctx", "1024")
    _, exact, _ = run(str(folder), "--ctx", "1024", "--bytes")
    assert "loading" not in out and "loading" in exact


def test_vllm_rounds_to_pages_of_16(folder: Path, run: Run) -> None:
    _, out, _ = run(str(folder), "--ctx", "1000", "--json")
    assert json.loads(out)["kv_cache"]["bytes"] == 63 * 16 * TOKEN_BYTES  # 1000 / 16 = 62.5


def test_several_models_in_order_with_a_failure(folder: Path, run: Run) -> None:
    status, out, err = run(str(folder), "./nowhere", str(folder), "--json", "--offline")
    reports = json.loads(out)
    assert status == 3
    assert [r["model"]["id"] for r in reports] == [str(folder), "./nowhere", str(folder)]
    assert reports[1]["error"]["code"] == "not_found"
    assert err.count("\n") == 1 and err.startswith("error: ")


def test_config_alone_counts_by_the_inventory(folder: Path, run: Run) -> None:
    (folder / "model.safetensors").unlink()
    status, out, _ = run(str(folder), "--json")
    report = json.loads(out)
    assert status == 0
    assert report["parameters"]["total"] == PARAMETERS
    assert report["weights"]["evidence"] == "config" and report["weights"]["grade"] == "derived"


def test_strict_turns_disagreement_into_exit_4(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "num_key_value_heads": 4}))
    front, size = header_bytes(llama_tensors())
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(front)
        file.truncate(size)
    status, out, _ = run(str(tmp_path), "--json")
    assert status == 0
    assert "kv_heads_mismatch" in [w["code"] for w in json.loads(out)["warnings"]]
    status, out, err = run(str(tmp_path), "--strict")
    assert (status, out) == (4, "")
    assert err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ctx", "-5"), "--ctx"),
        (("--ctx", "0"), "--ctx"),
        (("--ctx", "12x"), "--ctx"),
        (("--ctx", "999999999999999999999999"), "--ctx"),
        (("--batch", "1.5"), "--batch"),
        (("--tp", "0"), "--tp"),
        (("--engine", "tgi"), "tgi"),
        (("--kv-dtype", "fp7"), "fp7"),
        (("--overhead", "x%"), "--overhead"),
        (("--kv-memory", "lots"), "--kv-memory"),
        (("--quant", "q9"), "q9"),
        (("--nonsense",), "--nonsense"),
        (("--dtype", "foo"), "foo"),
        (("--ctx", "nan"), "--ctx"),
        (("--ctx", "1e30"), "--ctx"),
        (("--ctx", "1.55e1"), "--ctx"),
        (("--ctx", "1e-3"), "--ctx"),
        (("--quant", "q4"), "did you mean q4_k_m or int4?"),
        (("--ctx", "\u0663\u0662"), "--ctx"),
        (("--kv-memory", "\u0663GiB"), "--kv-memory"),
        (("--overhead", "\u0663%"), "--overhead"),
        (("--gpu", "h100", "--utilization", "\u0660.\u0669"), "--utilization"),
        (("--gpu", "h100", "--utilization", "nan"), "--utilization"),
        (("--ctx", "max"), "--ctx max needs a device"),
        (("--ngl", "MAX"), "--ngl max needs a device"),
        (("--gpu", "h100", "--ctx", "max", "--batch", "Max"), "--ctx max and --batch max"),
        (("--gpu", "h100", "--num-gpus", "min", "--utilization", "min"), "--num-gpus min and --utilization min"),
        (("--enable-prefix-caching", "--disable-radix-cache"), "exclude each other"),
    ],
)
def test_usage_errors(folder: Path, run: Run, words: tuple[str, ...], said: str) -> None:
    status, out, err = run(str(folder), *words)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and said in err


def test_unknown_repo_and_a_typo(hub: HubServer, run: Run) -> None:
    status, _, err = run("nobody/nothing-here")
    assert status == 3 and "nobody/nothing-here" in err
    status, _, err = run("meta-llama/Meta-Llama-3-8Bb")
    assert status == 3 and "did you mean meta-llama/Meta-Llama-3-8B?" in err


def test_live_model_with_all_its_shards(hub: HubServer, run: Run) -> None:
    tensors = llama_tensors()
    hub.add(
        "org/tiny",
        {"config.json": LLAMA, **sharded({"model-1.safetensors": tensors[:9], "model-2.safetensors": tensors[9:]})},
    )
    status, out, err = run("org/tiny", "--json", "-v")
    report = json.loads(out)
    assert status == 0
    assert report["model"]["source"] == "hub"
    assert report["model"]["revision"] == hub.repos["org/tiny"].commit
    assert report["weights"]["bytes"] == 2 * PARAMETERS
    assert "requests" in err


def test_unknown_architecture_names_key_and_way_on(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": "foo9", "attn_mix": 3}))
    status, out, err = run(str(tmp_path))
    assert (status, out) == (4, "")
    assert "model_type" in err and "foo9" in err and "--assume" in err
    status, out, _ = run(str(tmp_path), "--assume", "llama", "--json")
    assert status == 0
    assert json.loads(out)["parameters"]["total"] == PARAMETERS
    assert any("llama" in w["message"] for w in json.loads(out)["warnings"])


def test_missing_key_is_named(tmp_path: Path, run: Run) -> None:
    config = {key: value for key, value in LLAMA.items() if key != "hidden_size"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "baichuan"}))
    status, _, err = run(str(tmp_path))
    assert status == 4 and "hidden_size" in err


def test_hostile_strings_cannot_steer_the_terminal(tmp_path: Path, run: Run) -> None:
    evil = "llama\x1b[31m[bold]red[/bold]\x9b2J\u202e"
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "architectures": [evil], "model_type": evil}))
    _, _, err = run(str(tmp_path))
    assert "\x1b" not in err and "\x9b" not in err and "\u202e" not in err
    status, out, err = run(str(tmp_path), "--assume", "llama")
    assert status == 0
    assert "\x1b" not in out and "\u202e" not in out
    assert "\x1b" not in run(str(tmp_path), "--assume", "llama", "--json")[1]


def test_compare_formats(folder: Path, run: Run) -> None:
    status, out, _ = run("compare", str(folder), "--quant", "bf16,fp32", "--json")
    rows = json.loads(out)
    assert status == 0
    assert [row["label"] for row in rows] == ["bf16", "fp32"]
    assert [row["weights"]["bytes"] for row in rows] == [2 * PARAMETERS, 4 * PARAMETERS]
    assert all(row["weights"]["grade"] == "derived" for row in rows)
    assert run("compare", str(folder), "--quant", ",")[0] == 2


def test_layers_table(folder: Path, run: Run) -> None:
    status, out, _ = run("layers", str(folder), "--ctx", "100", "--engine", "ideal", "--json")
    rows = json.loads(out)["layers"]
    assert status == 0
    assert [(row["kind"], row["count"], row["bytes"]) for row in rows] == [("full", 2, 100 * TOKEN_BYTES)]
    assert "2 × 16" in run("layers", str(folder))[1]


def test_help_and_version(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0 and "hfmem meta-llama/Meta-Llama-3-8B --ctx 128k" in out
    assert len(out.splitlines()) <= 40
    assert run("estimate", "--help")[0] == 0
    assert run("--version")[1].startswith("hfmem ")
    assert run()[0] == 2


def test_header_with_a_hole_is_a_contradiction(tmp_path: Path, run: Run) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    header = {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    status, out, err = run(str(tmp_path))
    assert (status, out) == (4, "")
    assert "model.safetensors" in err


def test_python_api_gives_the_same_report(folder: Path, run: Run) -> None:
    import hfmem

    report = hfmem.estimate(str(folder), context=1000, overhead=0)
    padding = 2 * (128 - 100) * 64 * 2  # vLLM pads a vocabulary of 100 to 128, in the embedding and in the head
    assert report.total_bytes == 2 * PARAMETERS + padding + 63 * 16 * TOKEN_BYTES
    words = (str(folder), "--ctx", "1000", "--overhead", "0")
    assert json.loads(json.dumps(hfmem.to_dict(report))) == json.loads(run(*words, "--json")[1])
    assert f"{hfmem.to_text(report)}\n" == run(*words)[1]


def test_a_shard_server_sees_no_weights(hub: HubServer, run: Run) -> None:
    blob = shard(llama_tensors())
    hub.add("org/one", {"config.json": LLAMA, "model.safetensors": blob})
    assert run("org/one", "--json")[0] == 0
    assert max(entry.sent for entry in hub.requests()) < 200_000


def test_a_typo_is_named_with_no_hub_in_reach(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens there
    monkeypatch.setattr("hfmem.hub.http.BACKOFF", 0.005)
    status, _, err = run("meta-llama/Meta-Llama-3-8Bb")
    assert status == 3 and "cannot be reached" in err
    assert "did you mean meta-llama/Meta-Llama-3-8B?" in err and err.count("\n") == 1
