"""Other implementations, each behind an adapter that imports it where it is: installed, or in a folder that `--peer-path` names."""

from __future__ import annotations

from hfmem_kernels.benchmarks.peers import flash_attention, flashinfer, lmdeploy, sglang, torch_attention, vllm
from hfmem_kernels.benchmarks.peers.base import Folders, Peer
from hfmem_kernels.benchmarks.peers.loading import Absent

__all__ = ["PEERS", "Absent", "Folders", "Peer"]

#: in the order in which they are tried on a row: what loads fast first
PEERS: tuple[Peer, ...] = (
    *vllm.PEERS,
    *sglang.PEERS,
    *lmdeploy.PEERS,
    *flash_attention.PEERS,
    *flashinfer.PEERS,
    *torch_attention.PEERS,
)
