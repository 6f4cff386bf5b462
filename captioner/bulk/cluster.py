"""Ray: connecting to a cluster or starting one here, and its errors as lines."""

import contextlib
import importlib.util
import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from captioner.errors import CaptionerError, OptionError, one_line

_ATTEMPTS = 3  # of starting Ray
_PATIENCE = 5.0  # seconds
_CLIENT_PORT = 10001
_ADDRESS = re.compile(r"(?:ray://)?(\[[0-9a-fA-F:]+\]|[^/:\[\]]+)(?::([0-9]{1,5}))?")


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Inside, Ray is connected; gives the module. Where it was connected before, it stays so.

    Args:
        address: "auto" for a cluster of this machine, "host:port", or "ray://host:port" of a Ray client server; None
            for a cluster that is started here, and ends with this.

    Raises:
        OptionError: Ray is not installed, the address is none, or nothing answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it prints beside the command's own lines
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("ray", "pandas", "pyarrow", "msgpack"):
            raise
        raise OptionError(
            "captioner bulk needs Ray, which is not installed", remedy="pip install 'ray[data]'"
        ) from None
    if ray.is_initialized():
        with quiet(ray):
            yield ray
        return
    if address is not None and address != "auto":
        _check_address(address)
    if is_client(address) and importlib.util.find_spec("grpc") is None:
        raise OptionError(
            f"--address {address}: needs grpcio, which is not installed", remedy="pip install 'ray[client]'"
        )
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False, "address": "local"}
    else:
        options["address"] = address
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")  # attempts, of 40 seconds each
    for attempt in range(_ATTEMPTS):
        try:
            with _without_log_level():
                ray.init(**options)
            break
        except Exception as error:  # it raises Exception itself where a busy machine starts slowly
            if address is not None:
                raise _unreachable(address, one_line(error)) from None
            if attempt + 1 == _ATTEMPTS:
                raise CaptionerError(f"Ray does not start here ({one_line(error)})") from None
            ray.shutdown()
    try:
        with quiet(ray):
            yield ray
    finally:
        ray.shutdown()


def is_client(address: str | None) -> bool:
    """Whether an address is that of a Ray client server."""
    return address is not None and address.startswith("ray://")


@contextlib.contextmanager
def as_lines() -> Iterator[None]:
    """Errors of Ray inside become a `CaptionerError`: that which a worker raised, or one with Ray's reason."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, ConnectionError) as error:
        raise _cause_of(error) from None


def _cause_of(error: BaseException) -> CaptionerError:
    """The error of this program in the chain of an error that came from a worker."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or any(one is other for other in seen):
            continue
        if isinstance(one, CaptionerError) and type(one).__module__.startswith("captioner."):
            message = (str(one).splitlines() or [""])[0]  # ours are of one line, and Ray adds its own
            return type(one)(message.removesuffix(f"; {one.remedy}"), remedy=one.remedy)
        seen.append(one)
        waiting += [getattr(one, "cause", None), one.__cause__, one.__context__]
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    last = text.splitlines()[-1].strip() if text else type(error).__name__  # of the worker's traceback
    if "No module named 'captioner" in text:
        return CaptionerError(
            f"a worker lacks this program ({last})", remedy="install it on all machines of the cluster"
        )
    return CaptionerError(
        f"the run stopped: {last[:200]}; the parts that are there stay", remedy="run the same command again to go on"
    )


@contextlib.contextmanager
def quiet(ray: Any) -> Iterator[None]:
    """Inside, no progress bars and log lines of Ray Data: the command has its own."""
    context = ray.data.DataContext.get_current()
    names = ("enable_progress_bars", "print_on_execution_start")
    before = {name: getattr(context, name) for name in names if hasattr(context, name)}
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    levels = [logger.level for logger in loggers]
    for name in before:
        setattr(context, name, False)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _without_log_level() -> Iterator[None]:
    """Inside, Ray's line that it has read the log level is not printed; it comes from below Python. All else is."""
    sys.stderr.flush()
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if b"RAY_BACKEND_LOG_LEVEL" not in line:
                    os.write(2, line)


def _check_address(address: str) -> None:
    """Ray waits for minutes for a host that is not there. Raises OptionError where nothing answers."""
    found = _ADDRESS.fullmatch(address)
    port = int(found[2] or (_CLIENT_PORT if address.startswith("ray://") else 0)) if found else 0
    if found is None or not 0 < port < 1 << 16:
        raise OptionError(
            f"--address '{address}': is no address of a cluster", remedy="give auto, HOST:PORT or ray://HOST:10001"
        )
    try:
        socket.create_connection((found[1].strip("[]"), port), timeout=_PATIENCE).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or one_line(error)) from None


def _unreachable(address: str, reason: str) -> OptionError:
    remedy = "start one with 'ray start --head'" if address == "auto" else "check the address, and that Ray runs there"
    return OptionError(
        f"--address {address}: no cluster answers ({reason})", remedy=f"{remedy}, or leave --address out"
    )
