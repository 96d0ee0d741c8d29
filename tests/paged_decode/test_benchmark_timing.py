"""Capture and replay on a device of a few lines, whose clock moves by what is launched: rounds, order, and what a call comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hfmem_kernels.benchmarks import timing

#: microseconds that the made-up device takes to begin a replay, and Python to launch a call while the device waits
START_US, LAUNCH_US = 3.0, 80.0


class Device:
    """A clock, and what is being captured. Events read the clock; a graph replays the microseconds that it captured."""

    def __init__(self) -> None:
        self.now = 0.0
        self.capturing: Graph | None = None
        self.launched: list[int] = []

    def call(self, microseconds: float) -> Callable[[int], None]:
        def launch(index: int) -> None:
            if self.capturing is not None:
                self.capturing.calls.append((index, microseconds))
            else:
                self.launched.append(index)
                self.now += LAUNCH_US + microseconds

        return launch


class Graph:
    def __init__(self, device: Device) -> None:
        self.device, self.calls, self.replays = device, [], 0  # type: ignore[var-annotated]

    def replay(self) -> None:
        assert self.device.capturing is None
        self.replays += 1
        self.device.now += START_US + sum(time for _, time in self.calls)


class Event:
    device: Device

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        assert self.device.capturing is None  # an event in a capture would be a node of the graph
        self.at = self.device.now

    def synchronize(self) -> None:
        assert self.at is not None

    def elapsed_time(self, other: Event) -> float:
        assert self.at is not None and other.at is not None
        return (other.at - self.at) / 1e3


class Stream:
    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()

    @contextmanager
    def graph(found: Graph, stream: Any) -> Iterator[None]:
        assert made.capturing is None and isinstance(stream, Stream)
        made.capturing = found
        try:
            yield
        finally:
            made.capturing = None

    @contextmanager
    def stream(given: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(Event, "device", made, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(made))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return made


@pytest.mark.parametrize(
    ("microseconds", "sets", "rounds"),
    [
        (7.0, 26, 6),  # 3 + 26 · 7 = 185 µs a round: six of them are 1,110
        (37.0, 2, 13),  # 77 µs a round, whatever Python needs to launch one
        (2000.0, 1, 1),
        (1.0, 1, 64),  # 250 would be needed
    ],
)
def test_a_replay_is_long_enough(device: Device, microseconds: float, sets: int, rounds: int) -> None:
    launch = device.call(microseconds)
    made = timing.capture(launch, sets)
    graph: Any = made.graph
    assert made.calls == len(graph.calls) == rounds * sets
    assert [index for index, _ in graph.calls] == list(range(sets)) * rounds  # cold: never the same set twice in a row
    assert device.launched == list(range(min(sets, 3)))  # warmed up, and nothing more outside a graph
    assert made.launch is launch


def test_what_a_call_comes_to(device: Device) -> None:
    """The start of a replay is shared by its calls; contenders take turns, as often as the slower one allows."""
    replays = {"a": timing.capture(device.call(7.0), 26), "b": timing.capture(device.call(9000.0), 1)}
    graphs: list[Any] = [each.graph for each in replays.values()]
    before = [graph.replays for graph in graphs]
    found = timing.interleave(replays)
    assert found["a"].median_us == pytest.approx(7.0 + START_US / (6 * 26))
    assert found["b"].median_us == pytest.approx(9000.0 + START_US)
    assert found["a"].samples == found["b"].samples == 27  # a quarter of a second over 9,003 µs
    assert [graph.replays - each for graph, each in zip(graphs, before, strict=True)] == [29, 29]


def test_a_capture_that_fails_leaves_none_open(device: Device) -> None:
    def fails(index: int) -> None:
        if device.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        timing.capture(fails, 2)
    assert device.capturing is None
