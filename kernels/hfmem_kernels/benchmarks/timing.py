"""Device time of contenders: each captured once as a CUDA graph of several calls, then replayed in turn, so that clocks, heat and
neighbours hit all alike. Events around a replay; nothing waits for the device in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from hfmem_kernels.benchmarks.summary import Timing, summarize

#: replays are made as long as this: in shorter ones the graph's own start (a few microseconds) and the events' resolution (half
#: of one) would show
SHORTEST_REPLAY_US = 1000.0
#: rounds over the sets in one replay, at the most
MOST_ROUNDS = 64
#: replays of each contender
FEWEST, MOST = 11, 60
#: device time that one contender may take in all, seconds
CONTENDER_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Replay:
    """A captured graph of `calls` calls; `launch` owns the buffers that the graph writes to, and lives as long as it."""

    graph: torch.cuda.CUDAGraph
    calls: int
    launch: Callable[[int], object]


def capture(launch: Callable[[int], object], sets: int) -> Replay:
    """One call on each set in turn, and the round again until the replay is long enough to time.

    How long a round takes is seen in a replay: a call from Python may take longer to launch than to run.

    Raises:
        Exception: whatever the contender raises, while it is warmed up or because it cannot be captured.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for index in range(min(sets, 3)):  # compiles, autotunes, allocates
            launch(index)
        stream.synchronize()
        graph = _graph(launch, sets, 1, stream)
        graph.replay()
        once = max(_microseconds(graph.replay), 1.0)
        rounds = min(MOST_ROUNDS, math.ceil(SHORTEST_REPLAY_US / once))
        if rounds > 1:
            graph = _graph(launch, sets, rounds, stream)
    torch.cuda.current_stream().wait_stream(stream)
    return Replay(graph, rounds * sets, launch)


def _graph(launch: Callable[[int], object], sets: int, rounds: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(rounds):
            for index in range(sets):
                launch(index)
    return graph


def _microseconds(work: Callable[[], object]) -> float:
    """Device time from before to after `work`."""
    start, stop = _events()
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) * 1e3


def interleave(replays: Mapping[str, Replay], *, seconds: float = CONTENDER_SECONDS) -> dict[str, Timing]:
    """Microseconds of one call of each, over replays in turn: the first, cold round is not counted."""
    durations = _round(replays)
    durations = _round(replays)
    slowest = max(durations.values(), default=1.0) * 1e-6
    rounds = max(FEWEST, min(MOST, int(seconds / slowest)))
    events = {name: [_events() for _ in range(rounds)] for name in replays}
    for number in range(rounds):
        for name, replay in replays.items():
            start, stop = events[name][number]
            start.record()
            replay.graph.replay()
            stop.record()
    torch.cuda.synchronize()
    return {
        name: summarize([start.elapsed_time(stop) * 1e3 / replays[name].calls for start, stop in pairs])
        for name, pairs in events.items()
    }


def _events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    return start, stop


def _round(replays: Mapping[str, Replay]) -> dict[str, float]:
    """Microseconds of one replay of each."""
    return {name: _microseconds(replay.graph.replay) for name, replay in replays.items()}
