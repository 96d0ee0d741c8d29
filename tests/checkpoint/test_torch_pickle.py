"""Files of torch.save: facts equal to what torch has, by few and small reads; hostile files run nothing and cost little."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfmem.checkpoint.pickle_facts import Unpickler
from hfmem.checkpoint.torch_pickle import TorchFile, merge_torch, read_torch
from hfmem.errors import ContradictionError, FormatError, HfmemError

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.bool: "BOOL",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def facts(data: bytes) -> TorchFile:
    return read_torch(lambda offset, length: data[offset : offset + length], len(data), file="m.bin")


def archive(pkl: bytes, storages: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", pkl)
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()


def test_a_state_dict_is_read_as_torch_has_it() -> None:
    state = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.LayerNorm(4), torch.nn.Embedding(10, 4)).state_dict()
    found = facts(saved(state))
    assert {name: shape for name, (_, shape) in found.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }
    merged = merge_torch([found])
    assert merged.total_bytes == sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert found.notes == ()
    assert found.unused_bytes == 0


@pytest.mark.parametrize("dtype", list(NAMES), ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    tensor = torch.zeros(3, 5).to(dtype)
    found = facts(saved({"a": tensor, "scalar": tensor[0, 0].clone(), "none": tensor[:0].clone()}))
    assert dict(found.tensors) == {
        "a": (NAMES[dtype], (3, 5)),
        "scalar": (NAMES[dtype], ()),
        "none": (NAMES[dtype], (0, 5)),
    }


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(lambda key: key not in ("model", "net")),
        st.tuples(st.sampled_from(list(NAMES)), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=5,
    )
)
@settings(deadline=None, max_examples=40)
def test_round_trip(kinds: dict[str, Any]) -> None:
    state = {name: torch.zeros(shape).to(dtype) for name, (dtype, shape) in kinds.items()}
    found = facts(saved(state))
    assert dict(found.tensors) == {name: (NAMES[dtype], tuple(shape)) for name, (dtype, shape) in kinds.items()}


def test_parameters_tied_weights_and_views() -> None:
    weight = torch.nn.Parameter(torch.zeros(20, 10))
    state = {"embed": weight, "head": weight, "view": torch.zeros(100, 10)[:7], "t": torch.zeros(4, 6).t()}
    found = facts(saved(state))
    assert dict(found.tensors) == {"embed": ("F32", (20, 10)), "view": ("F32", (7, 10)), "t": ("F32", (6, 4))}
    assert found.shared == ("head",)
    assert found.unused_bytes == 93 * 10 * 4
    assert any("share" in note for note in found.notes)


def test_checkpoints_of_training_are_looked_into() -> None:
    model = torch.nn.Linear(3, 2)
    wanted = {"weight": ("F32", (2, 3)), "bias": ("F32", (2,))}
    for key in ("state_dict", "model", "model_state_dict"):
        found = facts(saved({"epoch": 3, key: model.state_dict(), "lr": 0.1, "optimizer": {"x": torch.zeros(9)}}))
        assert dict(found.tensors) == wanted
    nested = facts(saved({"a": {"b": [torch.zeros(1), {"c": torch.zeros(2)}]}}))
    assert list(nested.tensors) == ["a.b.0", "a.b.1.c"]
    whole = facts(saved(torch.nn.Sequential(model)))
    assert dict(whole.tensors) == {f"0.{name}": fact for name, fact in wanted.items()}
    assert any("was not run" in note for note in facts(saved({"w": torch.zeros(1), "p": Path("x")})).notes)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol: int) -> None:
    state = collections.OrderedDict(a=torch.zeros(2), b=torch.zeros(300, dtype=torch.int64))
    found = facts(saved(state, pickle_protocol=protocol))
    assert dict(found.tensors) == {"a": ("F32", (2,)), "b": ("I64", (300,))}


def test_few_and_small_reads() -> None:
    data = saved({f"layers.{i}.w": torch.zeros(64, 64) for i in range(1500)})
    reads: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return data[offset : offset + length]

    found = read_torch(read, len(data), file="m.bin")
    assert len(found.tensors) == 1500
    assert len(reads) <= 3
    assert sum(length for _, length in reads) < len(data) / 30


def test_shards_are_one_model() -> None:
    merged = merge_torch([facts(saved({"l.0.w": torch.zeros(4)})), facts(saved({"l.1.w": torch.zeros(4)}))])
    assert [(g.pattern, g.count) for g in merged.groups] == [("l.{}.w", 2)]
    with pytest.raises(ContradictionError, match=r"'l\.0\.w' is stored twice"):
        merge_torch([facts(saved({"l.0.w": torch.zeros(4)}))] * 2)


# ------------------------------------------------------------------ files that are something else


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (pickle.dumps({"a": 1}, 2), "a plain pickle"),
        (b"hello world" * 20, "not a file of torch.save"),
        (saved({"a": torch.zeros(2)}, _use_new_zipfile_serialization=False), "before 1.6"),
        (saved({"a": torch.zeros(2)})[:-100], "cut short"),
        (archive(pickle.dumps({"a": 1}, 2)), "holds no tensor"),
        (archive(b""), "ends early"),
        (archive(b"\x80\x09."), "protocol"),
    ],
)
def test_what_is_no_weights_file_is_named(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        facts(data)
    assert caught.value.message.startswith("m.bin: ")


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


def test_a_larger_directory_is_read_too() -> None:
    state = {f"n{i}": torch.zeros(1) for i in range(3000)}  # its directory is longer than the tail read first
    assert len(facts(saved(state)).tensors) == 3000


# ------------------------------------------------------------------ lies


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
