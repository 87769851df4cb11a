"""Which calls run as a CUDA graph, with a stub in place of CUDA's."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from disk.model import graphs
from disk.model.graphs import Graphs, Recording, record_graph


class Stub:
    """Records a function as CUDA does: the graph repeats it on the tensors it was recorded with."""

    def __init__(self, size=1, fails=False):
        self.recorded, self.replayed, self.size, self.fails = 0, 0, size, fails

    def record(self, function, tensors):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.recorded += 1
        inputs, output = [tensor.clone() for tensor in tensors], function(*tensors).clone()

        def replay():
            self.replayed += 1
            output.copy_(function(*inputs))

        return Recording(replay, inputs, output, self.size)


@pytest.fixture
def memory(monkeypatch):
    properties = SimpleNamespace(total_memory=80)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the only stream")


def times_two(x):
    return x * 2


@pytest.mark.usefixtures("memory")
def test_a_repeated_shape_runs_as_a_graph_with_the_new_values():
    stub = Stub()
    run = Graphs(torch.device("cuda"), stub.record).run
    results = [run("a", times_two, torch.full((2,), value)) for value in (1.0, 2.0, 3.0, 4.0)]
    assert [r.tolist() for r in results] == [[2.0, 2.0], [4.0, 4.0], [6.0, 6.0], [8.0, 8.0]]
    assert (stub.recorded, stub.replayed) == (1, 3)


@pytest.mark.usefixtures("memory")
def test_the_most_recently_used_graphs_are_kept(monkeypatch):
    monkeypatch.setattr(graphs, "_MOST", 2)
    stub = Stub()
    run = Graphs(torch.device("cuda"), stub.record).run
    for key in "aabbacc":  # c evicts b, because a was used after it
        run(key, times_two, torch.ones(1))
    assert stub.recorded == 3
    run("a", times_two, torch.ones(1))
    assert stub.recorded == 3
    run("b", times_two, torch.ones(1))
    assert stub.recorded == 4


@pytest.mark.usefixtures("memory")
def test_memory_is_bounded():
    stub = Stub(size=6)  # ten bytes each, an eighth of the memory
    run = Graphs(torch.device("cuda"), stub.record).run
    for key in "aabb":
        run(key, times_two, torch.ones(1))
    assert stub.recorded == 2
    run("a", times_two, torch.ones(1))
    assert stub.recorded == 3

    stub.size = 11
    for _ in range(3):
        assert run("c", times_two, torch.ones(1)).tolist() == [2.0]
    assert stub.recorded == 4  # tried once, and too large


@pytest.mark.usefixtures("memory")
def test_calls_that_cannot_be_recorded_run_without_a_graph(caplog):
    caplog.set_level("WARNING", "disk")
    stub = Stub(fails=True)
    run = Graphs(torch.device("cuda"), stub.record).run
    for key in "aaabbb":
        assert run(key, times_two, torch.ones(1)).tolist() == [2.0]
    assert [r.message for r in caplog.records] == [
        "running without CUDA graphs: operation not permitted when stream is capturing"
    ]


@pytest.mark.usefixtures("memory")
def test_a_replay_on_another_stream_waits_for_the_last_one(monkeypatch):
    class Stream:
        def wait_stream(self, other):
            events.append((self, other))

    class Traced(Stub):
        def record(self, function, tensors):
            recording = super().record(function, tensors)
            return replace(recording, replay=lambda: events.append("replay"))

    events, one, two = [], Stream(), Stream()
    run = Graphs(torch.device("cuda"), Traced().record).run
    for stream in (one, one, one, two, two, one):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device, now=stream: now)
        run("a", times_two, torch.ones(1))
    assert events == ["replay", "replay", (two, one), "replay", "replay", (one, two), "replay"]


def test_a_failed_recording_leaves_the_stream_of_before(pretend_cuda):
    """Or what follows would not wait for the work queued so far."""
    device = torch.device("cuda", 1)
    before = torch.cuda.current_stream(), torch.cuda.current_stream(device)
    with pytest.raises(RuntimeError, match="capturing"):
        record_graph(lambda x: x * x.sum().item(), [torch.ones(2, device=device)])
    assert (torch.cuda.current_stream(), torch.cuda.current_stream(device)) == before
    assert torch.cuda.current_device() == 0


@pytest.mark.gpu
def test_a_graph_of_the_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    run = Graphs(device).run
    weight = torch.randn(64, 64, device=device)
    for _ in range(4):
        x = torch.randn(8, 64, device=device)
        torch.testing.assert_close(run("a", lambda x: torch.relu(x @ weight), x), torch.relu(x @ weight))
