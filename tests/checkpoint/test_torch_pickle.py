"""Files of torch.save: facts equal to what torch has, by few and small reads."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_files import archive, facts, saved

from hfmem.checkpoint.quantization import logical_groups
from hfmem.checkpoint.torch_pickle import merge_torch, read_torch
from hfmem.errors import ContradictionError, FormatError

torch = pytest.importorskip("torch")

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


def test_a_larger_directory_is_read_too() -> None:
    state = {f"n{i}": torch.zeros(1) for i in range(3000)}  # its directory is longer than the tail read first
    assert len(facts(saved(state)).tensors) == 3000


class Packed(torch.Tensor):
    """A weight as torchao's tensors are: no storage of its own, tensors in its attributes."""

    tensor_impl: Any

    @staticmethod
    def __new__(cls, inner: Any, shape: tuple[int, ...]) -> Packed:
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bfloat16)

    def __init__(self, inner: Any, shape: tuple[int, ...]) -> None:
        self.tensor_impl = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


class Impl(torch.Tensor):
    int_data: Any
    scale: Any

    @staticmethod
    def __new__(cls, codes: Any, scale: Any) -> Impl:
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=codes.dtype)

    def __init__(self, codes: Any, scale: Any) -> None:
        self.int_data, self.scale = codes, scale

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


def test_a_weight_of_tensors_in_attributes_is_counted_by_them() -> None:
    impl = Impl(torch.zeros(512, 256, dtype=torch.int8), torch.zeros(512, dtype=torch.bfloat16))
    state = {"layers.0.up_proj.weight": Packed(impl, (512, 256)), "norm.weight": torch.zeros(256)}
    found = facts(saved(state))
    inner = "layers.0.up_proj.weight.tensor_impl"
    assert dict(found.tensors) == {
        f"{inner}.int_data": ("I8", (512, 256)),
        f"{inner}.scale": ("BF16", (512,)),
        "norm.weight": ("F32", (256,)),
    }
    assert found.unused_bytes == 0
    weight = next(group for group in logical_groups(merge_torch([found])) if group.method)
    assert (weight.pattern, weight.shape, weight.bits) == ("layers.{}.up_proj.weight", (512, 256), 8)
    assert weight.total_bytes == 512 * 256 + 2 * 512
