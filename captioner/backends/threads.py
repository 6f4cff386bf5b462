"""How many threads compute on a CPU: as many as asked for, or as the cores that others leave free."""

import os
import threading
import time
from pathlib import Path

from captioner.errors import OptionError
from captioner.options import plain_number

_LOOK_EVERY = 5.0  # seconds
_SHORTEST_LOOK = 0.05


def check_threads(threads: int | None) -> int | None:
    """The number that was asked for, or that OMP_NUM_THREADS names; None where neither says.

    Raises:
        OptionError: fewer than 1.
    """
    if threads is not None:
        return whole_threads(threads)
    from_environment = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    is_number = from_environment.isascii() and from_environment.isdecimal() and len(from_environment) < 5
    return int(from_environment) or None if is_number else None


def whole_threads(threads: int) -> int:
    """The number of threads. Raises OptionError where it is no whole number of at least 1."""
    threads = plain_number(threads)
    if type(threads) is not int or threads < 1:
        raise OptionError(f"threads must be a whole number of at least 1, not {threads!r}")
    return threads


def choose_threads(*, cores: int, usable: int, busy: float) -> int:
    """Threads that each compute a picture by themselves, on a machine that others use too.

    A thread that has a core of its own is fastest, so those cores are left out that others keep busy. Yet at least
    three quarters of the usable cores are taken: the system gives each running thread an equal share, and beside many
    neighbours a process with few threads would get less than its own.

    Args:
        cores: of the machine.
        usable: those that this process may run on.
        busy: cores that others keep busy, on average.

    Returns:
        At least 1, at most ``usable``.
    """
    at_least = -(-3 * usable // 4)
    return max(1, at_least, min(usable, cores - round(busy)))


class Threads:
    """The number of threads to use now, chosen every few seconds by the load of the other programs.

    Args:
        fixed: the number, where it is not to be chosen.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self._cores = os.cpu_count() or 1
        self._lock = threading.Lock()
        self.most = fixed or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else self._cores)
        self._chosen = self.most
        self._fixed = fixed is not None or self.most == 1
        if not self._fixed:
            self._looked, self._ticks, self._own = time.monotonic(), _ticks(), time.process_time()
            self._next = 0.0

    def now(self) -> int:
        """At least 1, at most ``most``."""
        if not self._fixed and self._lock.acquire(blocking=False):  # one thread looks, the others take what it found
            try:
                moment = time.monotonic()
                if moment >= self._next and moment - self._looked >= _SHORTEST_LOOK:
                    self._chosen = choose_threads(cores=self._cores, usable=self.most, busy=self._busy(moment))
                    self._next = moment + _LOOK_EVERY
            finally:
                self._lock.release()
        return self._chosen

    def _busy(self, moment: float) -> float:
        """Cores that others kept busy since the last look; from the load average where the system counts no ticks."""
        ticks, own = _ticks(), time.process_time()
        mine = (own - self._own) / (moment - self._looked)
        before, self._ticks, self._looked, self._own = self._ticks, ticks, moment, own
        if ticks is None or before is None or ticks[1] <= before[1]:
            return max(0.0, _load_average() - mine)
        return max(0.0, self._cores * (1 - (ticks[0] - before[0]) / (ticks[1] - before[1])) - mine)


def _ticks() -> tuple[int, int] | None:
    """Ticks of all cores since the start, those that were idle and all of them (Linux); None where none are counted."""
    try:
        with Path("/proc/stat").open("rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]  # user time counts guests already
    except (OSError, ValueError):
        return None
    return sum(ticks[3:5]), sum(ticks)


def _load_average() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # as on Windows
        return 0.0
