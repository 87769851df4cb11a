"""The benchmark of cores, on a small scale."""

import pytest
import torch

from script import load_script


@pytest.fixture
def cores():
    module = load_script("benchmarks/cores.py")
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


class Together:
    """A barrier and a queue for a single process."""

    def __init__(self):
        self.waited, self.rates = 0, []

    def wait(self, timeout):
        self.waited += 1

    def put(self, rate):
        assert self.waited == 1
        self.rates.append(rate)


@pytest.mark.parametrize("work", ["detect", "match"])
def test_a_process_counts_after_all_are_ready(cores, work):
    both = Together()
    cores.run(work, 1, [], 0.05, 32, 48, 20, both, both)
    assert len(both.rates) == 1
    assert both.rates[0] > 0


def test_counts_of_cores(cores):
    assert cores.counts(1) == [1]
    assert cores.counts(2) == [1, 2]
    assert cores.counts(12) == [1, 2, 4, 8, 12]
    assert cores.counts(16) == [1, 2, 4, 8, 16]


def test_the_table(cores, monkeypatch, capsys):
    monkeypatch.setattr(cores, "rate", lambda work, processes, threads, options: 2.0 * processes + threads)
    monkeypatch.setattr("sys.argv", ["cores.py", "--cores", "2"])
    cores.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line[:5].strip().isdigit()]
    assert rows[:2] == [["1", "3.00", "100", "%", "3.00", "100", "%"], ["2", "4.00", "67", "%", "5.00", "83", "%"]]
