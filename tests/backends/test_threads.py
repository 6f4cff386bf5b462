"""How many threads compute, by what was asked for and by what else the machine does."""

import os

import pytest

from captioner.backends import threads
from captioner.backends.threads import Threads, check_threads, choose_threads
from captioner.errors import OptionError


@pytest.mark.parametrize(
    ("cores", "usable", "busy", "expected"),
    [
        (1, 1, 0.0, 1),
        (1, 1, 9.0, 1),
        (2, 2, 0.0, 2),
        (2, 2, 2.0, 2),  # the system shares out the cores: one thread would get a smaller share of them
        (8, 8, 0.4, 8),
        (8, 8, 1.0, 7),
        (8, 8, 30.0, 6),
        (64, 64, 5.2, 59),
        (64, 4, 8.0, 4),  # there are cores enough for those that this process may use
        (64, 16, 60.0, 12),
    ],
)
def test_the_choice(cores: int, usable: int, busy: float, expected: int) -> None:
    assert choose_threads(cores=cores, usable=usable, busy=busy) == expected


def test_what_is_asked_for_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_threads(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert check_threads(None) == 5
    assert check_threads(2) == 2
    for value in ("none", "0", "", "\u00b2", "9" * 9):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert check_threads(None) is None
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(OptionError, match="threads"):
            check_threads(wrong)  # type: ignore[arg-type]
    assert Threads(3).now() == Threads(3).most == 3


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine of eight cores; what it did, which a test may change."""
    state = {"time": 100.0, "own": 0.0, "idle": 0, "all": 0, "load": 0.0}
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr("time.monotonic", lambda: state["time"])
    monkeypatch.setattr("time.process_time", lambda: state["own"])
    monkeypatch.setattr(threads, "_ticks", lambda: (state["idle"], state["all"]))
    monkeypatch.setattr(os, "getloadavg", lambda: (state["load"],) * 3, raising=False)
    return state


def test_neighbours_are_seen_and_the_process_itself_is_not(machine: dict[str, float]) -> None:
    chosen = Threads()
    assert chosen.now() == 8  # nothing was seen yet
    machine.update(time=101, own=1.0, idle=500, all=800)  # three cores worked, one of them for this process
    assert chosen.now() == 6
    machine.update(time=103, own=3.0, idle=2100, all=2400)
    assert chosen.now() == 6, "it does not look at every picture"
    machine.update(time=107, own=7.0, idle=4700, all=5600)
    assert chosen.now() == 8


def test_without_ticks_the_load_average_counts(machine: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_ticks", lambda: None)
    chosen = Threads()
    machine.update(time=102, own=2.0, load=2.2)
    assert chosen.now() == 7
    monkeypatch.delattr(os, "getloadavg", raising=False)
    machine.update(time=200)
    assert chosen.now() == 8
