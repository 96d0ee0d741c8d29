"""`hfmem verify` as a user meets it."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import Run
from verified_logs import LLAMA_8B, OFFLINE

from hfmem.errors import ModelNotFoundError, UsageError
from hfmem.hub.logfile import read_log
from hfmem.server_logs.verify import verify_log


def test_calibrating_flags_repeat_the_log(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LLAMA_8B.format(context=16000, kv="auto", available="51.38", tokens=420_864))
    status, out, _ = run("verify", str(log), "--offline")
    assert status == 0
    command = next(row for row in out.splitlines() if "next time:" in row).partition("next time: hfmem ")[2]
    status, out, _ = run(*command.split(), "--offline", "--json", "--page-size", "128")
    assert status == 0
    assert json.loads(out)["engine_pool"]["num_pages"] == 3288


def test_json(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LLAMA_8B.format(context=16000, kv="auto", available="51.38", tokens=420_864))
    status, out, _ = run("verify", str(log), "--offline", "--json", "--gpu", "h100")
    found = json.loads(out)
    assert status == 0 and found["schema_version"] == 1 and found["agrees"] is True
    assert {item["what"] for item in found["checks"]} >= {"weights", "KV cache tokens", "memory left for the cache"}
    assert all(item["line"] >= 1 for item in found["checks"])


def test_what_is_given_wins(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(LLAMA_8B.format(context=16000, kv="auto", available="51.38", tokens=420_864))
    _, out, _ = run("verify", str(log), "meta-llama/Meta-Llama-3-8B", "--ctx", "4k", "--tp", "2", "--offline", "--json")
    found = json.loads(out)
    assert (found["model"], found["context"], found["tp"]) == ("meta-llama/Meta-Llama-3-8B", 4096, 2)


@pytest.mark.parametrize(
    ("content", "words", "status", "message"),
    [
        (b"", (), 2, "is empty"),
        (os.urandom(4096), (), 2, "no line of vLLM"),
        (b"hello world\n", (), 2, "no line of vLLM"),
        (b"Available KV cache memory: 5.0 GiB\n", (), 2, "names no model"),
        (b"vllm serve nobody/nothing-at-all-7b\nModel loading took 5.0 GiB\n", (), 3, "hfmem verify LOGFILE MODEL"),
        (b"vllm serve a/b\nModel loading took 5.0 GiB\n", ("--tp", "0"), 2, "--tp"),
        (b"vllm serve a/b\nModel loading took 5.0 GiB\n", ("--gpu", "nonsense9000"), 2, "--gpu"),
        (b"vllm serve a/b\nModel loading took 5.0 GiB\n", ("--kv-dtype", "fp3"), 2, "fp3"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, tmp_path: Path, content: bytes, words: tuple[str, ...], status: int, message: str
) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(content)
    got, out, err = run("verify", str(log), *words, "--offline")
    assert (got, out, err.count("\n")) == (status, "", 1)
    assert err.startswith("error: ") and message in err


def test_places_that_are_no_logs(tmp_path: Path) -> None:
    for place in (str(tmp_path), str(tmp_path / "none"), "a\x00b"):
        with pytest.raises(UsageError):
            read_log(place)


def test_stdin_and_encodings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Model loading took 5.0 GiB — ok"
    log = tmp_path / "log"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        log.write_bytes(text.encode(encoding))
        assert read_log(str(log)) == text
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert read_log("-") == text


def test_a_name_that_steers_the_terminal(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("Initializing an LLM engine with config: model='x/\u202eevil'\nModel loading took 5.0 GiB\n")
    status, _, err = run("verify", str(log), "--offline")
    assert status in (2, 3) and "\u202e" not in err


def test_unknown_model_names_what_to_do() -> None:
    with pytest.raises(ModelNotFoundError, match="hfmem verify LOGFILE MODEL"):
        verify_log("vllm serve some/unheard-of-thing\nModel loading took 5.0 GiB\n", fetch=OFFLINE)
