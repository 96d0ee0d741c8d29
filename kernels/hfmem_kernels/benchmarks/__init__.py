"""Measuring the decode kernels on a device, beside every peer that loads. `scripts/bench_paged_decode.py` and `hfmem bench` use it.

    shapes → rows → grid        what is measured: real models' layers, through hfmem; plain integers
    inputs → gate → timing      one row on a device: buffers, correctness, CUDA-graph replays
    ceiling, experiments, peers  what it is measured against
    session → results → targets → report, plots

A folder of the package because `hfmem bench` needs its inputs, timing and ceiling where the package is installed. Nothing here is
imported by the ops; `shapes.py` and `environment.py` alone import `hfmem`. What runs on a device says so by importing torch.
"""
