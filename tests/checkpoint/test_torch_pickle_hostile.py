"""Hostile and damaged files of torch.save: they run nothing, cost little, and end in one clear error."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import archive, facts, saved

from hfmem.checkpoint.pickle_facts import Unpickler
from hfmem.errors import ContradictionError, FormatError, HfmemError

torch = pytest.importorskip("torch")


def test_zips_of_other_kinds() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match=r"not of torch\.save"):
        facts(buffer.getvalue())
    script = io.BytesIO()
    torch_script = archive(saved_pickle({"a": torch.zeros(1)}))
    with zipfile.ZipFile(io.BytesIO(torch_script)) as old, zipfile.ZipFile(script, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/constants.pkl", b"")
    with pytest.raises(FormatError, match="TorchScript"):
        facts(script.getvalue())


def saved_pickle(value: Any) -> bytes:
    """The data.pkl that torch.save writes."""
    with zipfile.ZipFile(io.BytesIO(saved(value))) as file:
        return file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))


def test_storages_must_be_what_the_pickle_says() -> None:
    pkl = saved_pickle({"a": torch.zeros(4)})
    assert dict(facts(archive(pkl, {"0": bytes(16)})).tensors) == {"a": ("F32", (4,))}
    with pytest.raises(ContradictionError, match="lacks data/0"):
        facts(archive(pkl))
    with pytest.raises(ContradictionError, match="has 15 bytes, its pickle says 16"):
        facts(archive(pkl, {"0": bytes(15)}))
    with pytest.raises(FormatError, match="compressed"):
        facts(archive(pkl, {"0": bytes(16)}, zipfile.ZIP_DEFLATED))


def hand_made(shape: bytes, stride: bytes, offset: bytes = b"K\0", count: bytes = b"K\x04") -> bytes:
    """A pickle of `{"a": tensor}` whose numbers are given as opcodes; its storage holds `count` floats."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + count + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + shape + stride + b"\x89}tR"
    return b"\x80\x02}X\x01\0\0\0a" + tensor + b"s."


BIG = b"\x8a\x09" + struct.pack("<Q", 1 << 63) + b"\0"


@pytest.mark.parametrize(
    ("pkl", "words"),
    [
        (hand_made(b"K\x05\x85", b"K\x01\x85"), "'a' reaches past the end"),
        (hand_made(b"K\x02\x85", b"K\x04\x85"), "'a' reaches past the end"),
        (hand_made(b"K\x04\x85", b"K\x01\x85", b"K\x01"), "'a' reaches past the end"),
        (hand_made(b"J\xff\xff\xff\xff\x85", b"K\x01\x85"), "'a' has a negative size"),
        (hand_made(b"K\x01\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"), "'a' has a negative size"),
        (hand_made(BIG + BIG + b"\x86", b"K\0K\0\x86"), "'a' overflows"),
        (hand_made(b"K\x02K\x02\x86", b"K\x01\x85"), "'a' has not one stride"),
        (hand_made(b"N", b"K\x01\x85"), "without a shape"),
        (hand_made(b"K\x01\x85", b"K\x01\x85", b"N"), "without a storage"),
        (hand_made(b"K\x01\x85", b"K\x01\x85", count=BIG), "cannot be"),
    ],
)
def test_tensors_that_cannot_be(pkl: bytes, words: str) -> None:
    with pytest.raises(HfmemError, match=words):
        facts(archive(pkl, {"0": bytes(16)}))
    assert dict(facts(archive(hand_made(b"K\x02K\x02\x86", b"K\x02K\x01\x86"), {"0": bytes(16)})).tensors) == {
        "a": ("F32", (2, 2))
    }


class Attack:
    """Pickles to a call of os.system, as hostile files have it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def test_nothing_in_the_pickle_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    found = facts(saved({"a": torch.zeros(2), "b": Attack(proof)}))
    assert dict(found.tensors) == {"a": ("F32", (2,))}
    assert any("system" in note for note in found.notes)
    assert not proof.exists()
    for pkl in (
        pickle.dumps(Attack(proof), 0),
        pickle.dumps(Attack(proof), 2),
        pickle.dumps(Attack(proof), 4),
        b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR.",
        b"(S'touch " + str(proof).encode() + b"'\nios\nsystem\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x0eopen('ran','w')\x85R.",
    ):
        with pytest.raises(FormatError):
            facts(archive(pkl))
        assert not proof.exists()


@pytest.mark.parametrize(
    "pkl",
    [
        b"\x82\x01.",  # EXT1: a name from this process' registry
        b"(iposix\nsystem\n.",  # INST
        b"(cposix\nsystem\no.",  # OBJ
        b"Pid\n.",  # PERSID
        b"\x97.",  # NEXT_BUFFER
        b"\x80\x04N\x8c\x01a\x93.",  # STACK_GLOBAL of no string
        b"Qa.",
        b"K\x01Q.",
        b"h\x05.",
        b"0.",
        b"t.",
        b"e.",
        b"(((.",
        b"R.",
        b"a.",
        b"u.",
        b"b.",
        b"2.",
        b"q\0.",
        b"\x85.",
        b"X\xff\xff\xff\xff.",
        b"\x8d" + b"\xff" * 8 + b".",
        b"\x8b\xff\xff\xff\x7f.",
        b"c" + b"a" * 10_000,
        b"Inot a number\n.",
        b"I" + b"9" * 4000 + b"\n.",
    ],
)
def test_opcodes_out_of_place_are_errors(pkl: bytes) -> None:
    with pytest.raises(FormatError, match=r"^m\.bin: "):
        facts(archive(pkl))


HOSTILE = {
    "marks": b"(" * 60_000,
    "values": b"N" * 60_000,
    "references": b"]q\0" + b"h\0" * 60_000,
    "memo": b"".join(b"Nr" + struct.pack("<I", i) + b"0" for i in range(60_000)),
    "steps": b"N0" * 200_000,
    "depth": b")" + b"\x85" * 60_000 + b".",
    "copies": b"((K\x01K\x01t(K\x01K\x01tlq\0" + b"ccollections\nOrderedDict\nh\0\x85R0" * 60_000 + b".",
    "path": b"}" + b"X\x01\0\0\0a}" * 8_000 + b"s" * 8_000 + b".",
    "cycle": b"]q\0h\0a.",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_pickles_end_in_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bounds lowered so that each is passed by a small file."""
    for bound, value in (("STACK", 50_000), ("MEMO", 50_000), ("STEPS", 300_000)):
        monkeypatch.setattr(f"hfmem.checkpoint.pickle_facts._MAX_{bound}", value)
    monkeypatch.setattr("hfmem.checkpoint.torch_pickle._MAX_NODES", 50_000)
    with pytest.raises(FormatError):
        facts(archive(HOSTILE[name]))


def test_the_largest_hostile_stack_costs_no_gigabytes() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="millions of values"):
            facts(archive(b"]" * 3_000_000))
        assert tracemalloc.get_traced_memory()[1] < 150_000_000
    finally:
        tracemalloc.stop()


def test_a_call_nested_in_calls_is_refused() -> None:
    inner = b"ctorch._tensor\n_rebuild_from_type_v2\nq\0"
    deep = inner + b"0)" + b"q\1" + b"".join(b"0h\0Nh\1\x87q\1" for _ in range(5000)) + b"0h\0h\1R."
    with pytest.raises(FormatError):
        facts(archive(deep))


def test_zip_bombs_are_refused() -> None:
    with pytest.raises(FormatError, match="claims"):
        facts(archive(b"N" * (33 << 20), method=zipfile.ZIP_DEFLATED))
    small = bytearray(archive(b"N" * (8 << 20), method=zipfile.ZIP_DEFLATED))
    at = small.rfind(b"PK\x01\x02")
    small[at + 24 : at + 28] = struct.pack("<I", 1000)  # a directory that says the bomb is small
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="has not the 1,000 bytes"):
            facts(bytes(small))
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_directories_that_lie() -> None:
    good = saved({"a": torch.zeros(4)})
    end = good.rfind(b"PK\x05\x06")
    for at, code, value in ((10, "<H", 60_000), (12, "<I", 0xFFFFFFF0), (16, "<I", 0xFFFFFFF0), (16, "<I", 5)):
        bad = bytearray(good)
        struct.pack_into(code, bad, end + at, value)
        with pytest.raises(FormatError):
            facts(bytes(bad))


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_damage_gives_facts_or_a_clear_error(data: st.DataObject) -> None:
    file = bytearray(saved({"a.0": torch.zeros(2, 2), "a.1": torch.zeros(3, dtype=torch.int8)}))
    pkl = file.find(b"PK\x03\x04")
    span = data.draw(st.sampled_from([(pkl, pkl + 600), (len(file) - 900, len(file))]))
    for _ in range(data.draw(st.integers(1, 3))):
        file[data.draw(st.integers(span[0], span[1] - 1))] = data.draw(st.integers(0, 255))
    try:
        facts(bytes(file))
    except HfmemError as error:
        assert error.message


@given(st.binary(max_size=80))
@settings(deadline=None, max_examples=400)
def test_any_pickle_gives_a_value_or_a_clear_error(raw: bytes) -> None:
    try:
        Unpickler(raw, "f").load()
    except FormatError as error:
        assert error.message
