"""The PTX machine itself: small programs written by hand, with results worked out by hand or by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ptx_machine import execute, prepare
from ptx_state import Fault, GlobalMemory
from ptx_text import parse
from ptx_warp import multiply

HEAD = """.version 8.0
.target sm_80
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 out,
	.param .u64 .ptr .global .align 1 in,
	.param .u32 n
)
.reqntid {threads}
{{
	.reg .pred %p<9>;
	.reg .b16 %h<9>;
	.reg .b32 %r<40>;
	.reg .b64 %a<9>;
	ld.param.b64 %a0, [out];
	ld.param.b64 %a1, [in];
	ld.param.b32 %r0, [n];
	mov.u32 %r1, %tid.x;
	mad.wide.u32 %a2, %r1, 4, %a0;
	mad.wide.u32 %a3, %r1, 4, %a1;
"""


def run(body: str, out: torch.Tensor, source: torch.Tensor, n: int = 0, threads: int = 32, blocks: int = 1) -> None:
    program = parse(HEAD.format(threads=threads) + body + "\nret;\n}\n")
    memory = GlobalMemory([out, source])
    places = [(x, 0, 0) for x in range(blocks)]
    execute(program, prepare(program), memory, [out.data_ptr(), source.data_ptr(), n], 4096, (blocks, 1, 1), places)


def ints(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def test_lanes_that_a_guard_holds_back_write_nothing() -> None:
    out, source = ints(32), torch.arange(32, dtype=torch.int32)
    run("setp.lt.u32 %p1, %r1, %r0;\n@%p1 ld.global.b32 %r2, [%a3];\n@%p1 st.global.b32 [%a2], %r2;", out, source, n=20)
    assert out.tolist() == [*range(20), *[0] * 12]


def test_threads_leave_a_loop_one_by_one_and_meet_behind_it() -> None:
    """Thread t adds t, t - 1, … 1; then its neighbour's sum comes by a shuffle, in which all take part."""
    body = """
mov.b32 %r2, %r1;
mov.b32 %r3, 0;
$again:
setp.eq.s32 %p1, %r2, 0;
@%p1 bra $done;
add.s32 %r3, %r3, %r2;
add.s32 %r2, %r2, -1;
bra.uni $again;
$done:
shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
st.global.b32 [%a2], %r4;
"""
    out = ints(32)
    run(body, out, ints(1))
    assert out.tolist() == [(t ^ 1) * ((t ^ 1) + 1) // 2 for t in range(32)]


def test_shared_memory_and_barriers() -> None:
    """Thread t reads what thread 63 - t, of the other warp, has written."""
    body = """
mov.u32 %r2, global_smem;
shl.b32 %r3, %r1, 2;
add.s32 %r3, %r3, %r2;
st.shared.b32 [%r3], %r1;
bar.sync 0;
sub.s32 %r4, 63, %r1;
shl.b32 %r4, %r4, 2;
ld.shared.b32 %r5, [%r4+0];
st.global.b32 [%a2], %r5;
"""
    out = ints(64)
    run(body, out, ints(1), threads=64)
    assert out.tolist() == list(range(63, -1, -1))


@pytest.mark.parametrize("waited", [True, False])
def test_a_copy_is_not_there_before_its_group_was_waited_for(waited: bool) -> None:
    body = """
shl.b32 %r2, %r1, 2;
mov.b32 %r3, 4;
cp.async.ca.shared.global [ %r2 + 0 ], [ %a3 + 0 ], 0x4, %r3;
cp.async.commit_group;
cp.async.wait_group GROUPS;
ld.shared.b32 %r5, [%r2];
st.global.b32 [%a2], %r5;
""".replace("GROUPS", "0" if waited else "1")
    out, source = ints(32), torch.arange(7, 39, dtype=torch.int32)
    run(body, out, source)
    assert out.tolist() == (source.tolist() if waited else [-1] * 32)


def test_a_copy_of_no_bytes_writes_zeros_and_reads_nothing() -> None:
    body = """
shl.b32 %r2, %r1, 2;
mov.b32 %r3, 0;
mov.b64 %a4, 64;
cp.async.ca.shared.global [ %r2 + 0 ], [ %a4 + 0 ], 0x4, %r3;
cp.async.commit_group;
cp.async.wait_group 0;
ld.shared.b32 %r5, [%r2];
st.global.b32 [%a2], %r5;
"""
    out = torch.ones(32, dtype=torch.int32)
    run(body, out, ints(1))
    assert not out.any()


def test_blocks_add_to_one_counter() -> None:
    body = """
mov.u32 %r3, %ctaid.x;
setp.eq.u32 %p1, %r1, 0;
mov.b32 %r4, 2;
@%p1 atom.global.gpu.acq_rel.add.u32 %r2, [ %a0 + 0 ], %r4;
"""
    out = ints(1)
    run(body, out, ints(1), blocks=5)
    assert out.tolist() == [10]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.b32 %r2, [%a3+4];", "in no tensor"),  # the last thread reads past the end
        ("ld.global.b32 %r2, [%a3+2];", "misaligned"),
        ("st.global.b32 [%a2+-4], %r1;", "in no tensor"),
        ("mov.b32 %r2, 4096;\nld.shared.b32 %r3, [%r2];", "shared memory"),
        ("setp.eq.u32 %p1, %r1, 3;\n@%p1 shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;", "lanes of a warp alone"),
    ],
)
def test_what_a_device_should_stop_at(body: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        run(body, ints(32), ints(32))


def test_an_unknown_instruction_is_named() -> None:
    with pytest.raises(ValueError, match=r"brev\.b32"):
        run("brev.b32 %r2, %r1;", ints(32), ints(32))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("mov.b32 %r2, 0x80FF1234;\nprmt.b32 %r3, %r2, 0, 0xB210;", 0xFFFF1234),  # nibble B: the sign of byte 3
        ("mov.b32 %r2, 0xF0F0;\nlop3.b32 %r3, %r2, 0xFF00, 0x3333, 0xEA;", 0xF0F0 & 0xFF00 | 0x3333),
        ("mov.b32 %r2, 0xABCD1234;\nbfe.u32 %r3, %r2, 8, 12;", 0xD12),
        ("mov.b32 %r2, 0xABCD1234;\npopc.b32 %r3, %r2;", 5 + 5 + 2 + 3),
        ("mov.b32 %r2, 0xABCD1234;\nbfe.s32 %r3, %r2, 12, 8;", 0xFFFFFFD1),
        ("mov.b32 %r2, -7;\ndiv.s32 %r3, %r2, 2;", 2**32 - 3),
        ("mov.b32 %r2, -7;\nrem.s32 %r3, %r2, 4;", 2**32 - 3),
        ("mov.b32 %r2, -8;\nshr.s32 %r3, %r2, 40;", 2**32 - 1),
        ("mov.b32 %r2, 1;\nshl.b32 %r3, %r2, 32;", 0),
        ("mov.b32 %r2, 0xFFFFFFFF;\nmul.hi.u32 %r3, %r2, %r2;", 0xFFFFFFFE),
        ("mov.b32 %r2, 0x3F800000;\nex2.approx.ftz.f32 %r3, %r2;", 0x40000000),
        ("mov.b32 %r2, 0f3F808000;\ncvt.rn.bf16x2.f32 %r3, 0f40000000, %r2;", 0x40003F80),  # 1.00390625: a tie, to even
        ("cvt.rn.f16x2.f32 %r3, 0f40000000, 0f3F800000;", 0x40003C00),
        ("mov.b16 %h1, 0x38;\ncvt.rn.f16x2.e4m3x2 %r3, %h1;", 0x00003C00),  # 0x38 is 1.0 in e4m3
        ("mov.b32 %r2, 0f7FC00000;\nmax.f32 %r3, %r2, 0f3F800000;", 0x3F800000),  # of a number and NaN the number
        ("max.f32 %r3, 0f3F800000, 0f40400000, 0fC0000000;", 0x40400000),
        (
            "mov.b32 %r2, 0f40400000;\nmov.b64 %a4, {0f40000000, %r2};\nfma.rn.f32x2 %a4, %a4, %a4, %a4;\nmov.b64 {%r3, _}, %a4;",
            0x40C00000,
        ),
        (
            "mov.b32 %r2, 0f40400000;\nmov.b64 %a4, {0f40000000, %r2};\nmul.f32x2 %a4, %a4, %a4;\nmov.b64 {_, %r3}, %a4;",
            0x41100000,
        ),
        # lane 3 has 3 · 2^-149, every other NaN
        ("setp.eq.u32 %p1, %r1, 3;\nselp.f32 %r2, %r1, 0f7FC00000, %p1;\nredux.sync.max.f32 %r3, %r2, -1;", 3),
    ],
)
def test_arithmetic(body: str, expected: int) -> None:
    """Worked out by hand from the ISA's description."""
    out = ints(32)
    run(body + "\nst.global.b32 [%a2], %r3;", out, ints(1))
    assert out[0].item() & 0xFFFFFFFF == expected


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_matrix_product(kind: str) -> None:
    """Fragments filled element by element as the ISA's tables say, for two warps; small integers are exact."""
    generator = np.random.default_rng(0)
    a, b = generator.integers(-8, 8, (2, 16, 16)), generator.integers(-8, 8, (2, 16, 8))
    c = generator.integers(-8, 8, (2, 16, 8))
    dtype = torch.bfloat16 if kind == "bf16" else torch.float16

    def bits(value: int) -> int:
        return int(torch.tensor(float(value), dtype=dtype).view(torch.int16).item()) & 0xFFFF

    fragments = {
        "a": np.zeros((4, 64), np.uint32),
        "b": np.zeros((2, 64), np.uint32),
        "c": np.zeros((4, 64), np.uint32),
    }
    for thread in range(64):
        warp, lane = divmod(thread, 32)
        group, quad = divmod(lane, 4)
        for i in range(8):  # a0 … a7
            row = group if i in (0, 1, 4, 5) else group + 8
            column = quad * 2 + (i & 1) + (8 if i >= 4 else 0)
            fragments["a"][i // 2, thread] |= bits(a[warp, row, column]) << (16 * (i & 1))
        for i in range(4):  # b0 … b3
            row = quad * 2 + (i & 1) + (8 if i >= 2 else 0)
            fragments["b"][i // 2, thread] |= bits(b[warp, row, group]) << (16 * (i & 1))
        for i in range(4):  # c0 … c3
            value = np.float32(c[warp, group + (8 if i >= 2 else 0), quad * 2 + (i & 1)])
            fragments["c"][i, thread] = value.view(np.uint32)
    result = multiply(list(fragments["a"]), list(fragments["b"]), list(fragments["c"]), kind)
    expected = a @ b + c
    for thread in range(64):
        warp, lane = divmod(thread, 32)
        group, quad = divmod(lane, 4)
        for i in range(4):
            value = result[i][thread : thread + 1].view(np.float32)[0]
            assert value == expected[warp, group + (8 if i >= 2 else 0), quad * 2 + (i & 1)]


def test_ldmatrix_and_stmatrix_follow_the_tables() -> None:
    """Two 8 × 8 matrices of 16-bit numbers 0 … 127: lane 4 r + q gets row r, columns 2 q and 2 q + 1; stmatrix puts them back."""
    body = """
shl.b32 %r2, %r1, 3;
ld.global.v2.b32 {%r3, %r4}, [%a1];
setp.lt.u32 %p1, %r1, 32;
mad.wide.u32 %a4, %r1, 8, %a1;
@%p1 ld.global.v2.b32 {%r3, %r4}, [%a4];
st.shared.v2.b32 [%r2], {%r3, %r4};
bar.sync 0;
shl.b32 %r5, %r1, 4;
and.b32 %r5, %r5, 255;
ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r6, %r7}, [%r5];
ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r8, %r9}, [%r5];
add.s32 %r10, %r5, 1024;
stmatrix.sync.aligned.m8n8.x2.shared.b16 [%r10], {%r6, %r7};
bar.sync 0;
ld.shared.v2.b32 {%r11, %r12}, [%r2+1024];
mad.wide.u32 %a5, %r1, 24, %a0;
st.global.v2.b32 [%a5], {%r6, %r7};
st.global.v2.b32 [%a5+8], {%r8, %r9};
st.global.v2.b32 [%a5+16], {%r11, %r12};
"""
    source, out = torch.arange(128, dtype=torch.int16), ints(32, 6)
    run(body, out, source)
    halves = out.view(torch.int16).view(32, 6, 2)
    matrices = source.view(2, 8, 8)
    for lane in range(32):
        row, quad = divmod(lane, 4)
        for m in range(2):
            assert halves[lane, m].tolist() == matrices[m, row, 2 * quad : 2 * quad + 2].tolist()
            assert halves[lane, 2 + m].tolist() == matrices[m, 2 * quad : 2 * quad + 2, row].tolist()
    assert torch.equal(out[:, 4:].reshape(-1).view(torch.int16), source)
