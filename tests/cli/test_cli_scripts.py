"""What a script relies on: JSON on stdout whatever happens, the status, and words as people type them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from commands import Run

LLAMA = "meta-llama/Meta-Llama-3-8B"
OFF = "--offline --no-cache"


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (f"nobody/nothing {OFF} --json", 3, "offline"),
        (f"fit nobody/nothing --gpu h100 {OFF} --json", 3, "offline"),
        (f"layers nobody/nothing {OFF} --format json", 3, "offline"),
        (f"compare nobody/nothing {OFF} --format=json", 3, "offline"),
        (f"{LLAMA} --ctx many {OFF} --json", 2, "usage"),
        (f"fit {LLAMA} {OFF} --json", 2, "usage"),
        (f"plan {LLAMA} --nope {OFF} --json", 2, "usage"),
        (f"plan {LLAMA} --max-gpus 1025 {OFF} --json", 2, "usage"),
        (f"{LLAMA} --tp 3 {OFF} --json", 4, "unsupported"),
        (f"{LLAMA} --assume lama {OFF} --json", 2, "usage"),
    ],
)
def test_an_error_is_json_too(run: Run, words: str, status: int, code: str) -> None:
    found, out, err = run(*words.split())
    told = json.loads(out)["error"]
    assert (found, told["code"]) == (status, code)
    assert err == f"error: {told['message']}\n"


def test_without_json_stdout_stays_empty(run: Run) -> None:
    assert run("fit", "nobody/nothing", "--gpu", "h100", *OFF.split(), "--format", "csv")[1] == ""


def test_a_bug_is_json_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("hfmem.cli.plain.read", broken)
    status, out, err = run(LLAMA, "--json")
    assert status == 4 and json.loads(out)["error"]["code"] == "internal" and err.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "engine"), [("vLLM", "vllm"), ("SGLang", "sglang"), ("llama-cpp", "llama.cpp"), ("LLaMACPP", "llama.cpp")]
)
def test_engines_as_people_spell_them(run: Run, word: str, engine: str) -> None:
    for command in ([], ["layers"]):
        status, out, _ = run(*command, LLAMA, "--engine", word, "--ctx", "8k", *OFF.split(), "--json")
        assert status == 0
        if not command:
            assert json.loads(out)["kv_cache"]["engine"] == engine


@pytest.mark.parametrize(
    ("kind", "program"),
    [("sglang", "sglang.launch_server"), ("llama.cpp", "llama-server"), ("transformers", "from transformers import")],
)
def test_emit_names_the_engine(run: Run, kind: str, program: str) -> None:
    for command in ([LLAMA], ["fit", LLAMA, "--gpu", "h100"], ["plan", LLAMA, "--gpu", "h100"]):
        status, out, _ = run(*command, "--ctx", "8k", "--emit", kind, *OFF.split())
        assert status == 0 and program in out
    status, _, err = run(LLAMA, "--emit", kind, "--engine", "vllm", *OFF.split())
    assert status == 2 and "--engine" in err


def test_plan_says_for_which_device_it_emits(run: Run) -> None:
    _, out, err = run("plan", LLAMA, "--ctx", "8k", "--gpu", "h100,4090", "--emit", "vllm", *OFF.split())
    assert out.startswith("vllm serve") and err == "for 1 × RTX 4090, the first of 2 (fits)\n"


@pytest.mark.parametrize(
    ("words", "engine"),
    [("--gpu apple", "llama.cpp"), ("--gpu m4-max-64gb --engine vllm", "vllm"), ("--gpu h100", "vllm")],
)
def test_plan_reads_the_rules_that_hold_on_the_devices_named(run: Run, words: str, engine: str) -> None:
    _, out, _ = run("plan", LLAMA, "--ctx", "8k", *words.split(), *OFF.split(), "--json")
    assert json.loads(out)["kv_cache"]["engine"] == engine
    _, out, _ = run("plan", LLAMA, "--ctx", "8k", *words.split(), *OFF.split())
    assert ("! " in out) is ("h100" not in words)  # llama.cpp in vLLM's place, or vLLM where it is not read for


@pytest.mark.parametrize("command", ["", "fit", "plan"])
def test_emit_warns_beside_the_command(run: Run, command: str) -> None:
    """128k tokens of a model of 8,192 positions: the command is all that stdout holds."""
    words = [*command.split(), LLAMA, "--ctx", "128k", "--gpu", "h100", "--emit", "vllm", *OFF.split()]
    status, out, err = run(*words)
    assert status == 0 and " vllm serve " in out and "exceed" not in out
    assert err.startswith("warning: 131,072 tokens exceed the 8,192 positions")


def test_help_promises_only_what_the_command_does(run: Run) -> None:
    for command in ("plan", "verify", "bench"):  # which name no device to solve for
        text = " ".join(run(command, "--help")[1].split())
        assert "max: the most" not in text
    assert "max: the most that fits" in " ".join(run("fit", "--help")[1].split())


@pytest.mark.parametrize(
    "words",
    [
        LLAMA,
        f"fit {LLAMA} --gpu h100",
        f"plan {LLAMA} --gpu h100",
        f"layers {LLAMA}",
        f"explain {LLAMA}",
        f"bench {LLAMA} --dry-run --gpu h200",
    ],
)
def test_every_object_says_its_version_first(run: Run, words: str) -> None:
    status, out, _ = run(*words.split(), "--ctx", "4k", *OFF.split(), "--json")
    assert status == 0 and next(iter(json.loads(out).items())) == ("schema_version", 1)


def test_other_objects_say_their_version(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for words in (["cache"], ["files", str(tmp_path)]):
        assert json.loads(run(*words, "--json")[1])["schema_version"] == 1


@pytest.mark.parametrize("words", ["--engine ideal", "--engine transformers", "--engine llama.cpp", "--overhead 10%"])
def test_parts_of_the_contract_that_an_engine_lacks_are_null(run: Run, words: str) -> None:
    found = json.loads(run(LLAMA, "--ctx", "4k", *words.split(), *OFF.split(), "--json")[1])["runtime"]
    assert {"activations_bytes", "cuda_graph_bytes", "engine_bytes"} <= set(found)
    assert found["cuda_graph_bytes"] is None


def test_neighbouring_layers_of_one_shape_are_one_row(run: Run) -> None:
    # its config: 24 layers of the text encoder, 24 of the speech encoder and twice 6 from text to units keep nothing
    rows = json.loads(run("facebook/seamless-m4t-v2-large", "--ctx", "64", *OFF.split(), "--json")[1])["layers"]
    shapes = [{name: value for name, value in row.items() if name != "count"} for row in rows]
    assert all(a != b for a, b in itertools.pairwise(shapes))
    assert [(row["kind"], row["count"]) for row in rows] == [("full", 24), ("cross", 24), ("none", 24 + 36)]


def test_engines_side_by_side(run: Run) -> None:
    status, out, _ = run("compare", LLAMA, "--ctx", "8k", "--engine", "vllm,ideal", *OFF.split(), "--json")
    assert status == 0 and [row["kv_cache"]["engine"] for row in json.loads(out)] == ["vllm", "ideal"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (f"{LLAMA} nobody/nothing", 3),
        ("nobody/nothing facebook/bart-large-cnn", 3),
        ("facebook/bart-large-cnn --engine ideal,llama.cpp", 4),
    ],
)
def test_one_row_that_cannot_be_given_leaves_the_others(run: Run, words: str, code: int) -> None:
    status, out, err = run("compare", *words.split(), "--ctx", "1k", *OFF.split(), "--json")
    rows = json.loads(out)
    assert status == code and sorted("error" in row for row in rows) == [False, True] and err.count("\n") == 1
    status, out, _ = run("compare", *words.split(), "--ctx", "1k", *OFF.split())
    assert status == code and "bits each" in out
    assert run("compare", *words.split(), "--ctx", "many", *OFF.split())[0] == 2


def test_fit_says_that_it_needs_a_device(run: Run) -> None:
    status, out, err = run("fit", LLAMA, *OFF.split())
    assert (status, out) == (2, "") and "--gpu h100" in err and "hfmem plan" in err and err.count("\n") == 1


def test_on_apple_the_rules_are_llama_cpps(run: Run) -> None:
    for words, engine in (([], "llama.cpp"), (["--engine", "vllm"], "vllm")):
        words = ["fit", LLAMA, "--gpu", "m3-max-64gb", "--ctx", "8k", *words, *OFF.split(), "--json"]
        status, out, _ = run(*words)
        found = json.loads(out)
        assert status == 0 and found["kv_cache"]["engine"] == engine
        assert [w["code"] for w in found["warnings"]].count("engine_fallback") == (engine == "llama.cpp")
    # an engine that llama.cpp cannot stand in for
    found = json.loads(run("facebook/bart-large-cnn", "--gpu", "m3-max-64gb", *OFF.split(), "--json")[1])
    assert found["kv_cache"]["engine"] == "transformers"


def test_no_command_for_devices_that_an_engine_does_not_run_on(run: Run) -> None:
    for engine in ("vllm", "sglang"):
        status, out, err = run("fit", LLAMA, "--gpu", "m3-max-64gb", "--ctx", "8k", "--emit", engine, *OFF.split())
        assert (status, out) == (2, "") and "not of apple: --emit llama.cpp" in err and err.count("\n") == 1
    status, out, _ = run("fit", LLAMA, "--gpu", "m3-max-64gb", "--ctx", "8k", "--emit", "llama.cpp", *OFF.split())
    assert status == 0 and "llama-server" in out
    status, out, _ = run("fit", LLAMA, "--gpu", "max-1550", "--ctx", "8k", "--emit", "vllm", *OFF.split())
    assert status == 0 and out.startswith(
        "# vllm's rules are read for devices of amd and nvidia, not of intel\nvllm serve"
    )


@pytest.mark.parametrize(("device", "engine"), [("m3-max-64gb", "llama.cpp"), ("tpu-v5e", "ideal")])
def test_an_engine_is_named_whose_rules_hold_on_the_device(run: Run, device: str, engine: str) -> None:
    out = run("fit", LLAMA, "--gpu", device, "--ctx", "8k", "--engine", "vllm", *OFF.split(), "--json")[1]
    said = {warning["code"]: warning["message"] for warning in json.loads(out)["warnings"]}
    assert f"--engine {engine} may fit better" in said["device_engine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--gpu h100 --ctx 8k --batch 100000 --utilization min", "no --utilization is enough"),
        ("--gpu t4 --ctx 8k --batch 100000 --num-gpus min", "no number of devices up to 64 is enough"),
    ],
)
def test_what_no_share_and_no_number_can_do_is_said(run: Run, words: str, said: str) -> None:
    # 100,000 sequences of 8,192 tokens × 128 KiB are 100,000 GiB
    status, out, _ = run("fit", LLAMA, *words.split(), *OFF.split(), "--json")
    warnings = {warning["code"]: warning["message"] for warning in json.loads(out)["warnings"]}
    assert status == 1 and warnings["no_solution"].startswith(said)
    fitting = words.replace("100000", "1")
    assert "no_solution" not in run("fit", LLAMA, *fitting.split(), *OFF.split(), "--json")[1]
