"""How a command meets its surroundings: standard streams, signals, messages and the exit code.

A stream that is closed is treated as the null device. Characters that a stream cannot encode are written as backslash
escapes. A failure to write standard output becomes an `OutputError` that names it, a reader that has gone (``| head``)
becomes `ReaderGone`, and a failure to write standard error is ignored, since nothing is left to report it on.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress

from captioner.errors import CaptionerError
from captioner.training.processes import in_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType
    from typing import Any, NoReturn, TextIO

    from captioner.results import Caption

# Control characters, line and paragraph separators, marks that change the writing direction, and lone surrogates.
_UNPRINTABLE = "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"

_SHOWN_FAULTS = 20


class ReaderGone(Exception):  # noqa: N818 - no error
    """Nobody reads standard output any more, as after ``| head``. The command ends with exit code 0."""


class OutputError(CaptionerError):
    """Standard output cannot be written, for instance because the disk is full."""


class Terminated(BaseException):
    """The process received a signal that asks it to stop; see `stopping_on_signals`.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


def printable(name: str) -> str:
    """A file's name on one line, with everything escaped that a terminal would obey."""
    import re

    return re.sub(_UNPRINTABLE, lambda found: found[0].encode("unicode_escape").decode("ascii"), name)


def message_line(message: object) -> str:
    """A message to the user as one line that starts with the program's name."""
    return printable(f"captioner: {' '.join(str(message).split())}")


def text_of(caption: Caption, *, name: str | None) -> str:
    """A caption on a line, after the name of its picture where it is given; further captions of the picture on lines of
    their own that begin with a tab."""
    text = printable(caption.text)
    best = text if name is None else f"{printable(name)}\t{text}"
    return "\n".join([best, *(f"\t{printable(other.text)}" for other in caption.alternatives)])


def report(message: object) -> None:
    """Print a message to the user on standard error, as one line."""
    print(message_line(message), file=sys.stderr, flush=True)


def report_left_out(faults: Mapping[str, str], total: int) -> None:
    """Say which of ``total`` pictures do not open, the first twenty by what is wrong with them, and how many these are;
    nothing where there are none. ``faults`` are those of `captioner.data.records.usable`."""
    for fault in list(faults.values())[:_SHOWN_FAULTS]:
        report(fault)
    if faults:
        report(f"{len(faults)} of {total} pictures are left out")


@contextmanager
def standard_streams() -> Iterator[None]:
    """Inside, `sys.stdout` and `sys.stderr` behave as this module's docstring describes."""
    _occupy_closed_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - os.devnull is no path on Windows
        streams: tuple[TextIO | None, ...] = before
        out, err = (stream or nowhere for stream in streams)
        for stream in (out, err):
            if hasattr(stream, "reconfigure"):
                with suppress(OSError, ValueError):
                    stream.reconfigure(errors="backslashreplace")
        sys.stdout = _Output(out)
        sys.stderr = _Messages(err)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def exit_code(run: Callable[[], int]) -> int:
    """Run a command, print what went wrong as one line, and return the exit code.

    The code is 2 for a `CaptionerError`, a file that cannot be read or written, or memory that does not suffice, 130
    after Ctrl-C, 128 + n after signal n, and 0 where the reader of standard output has gone. Other exceptions pass
    through, since they are faults of the program; in a group of processes they are printed instead, and the code is 1.
    """
    code = _run(run)
    try:
        sys.stdout.flush()
    except ReaderGone:
        pass
    except OutputError as error:
        report(error)
        code = code or 2
    return code


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, once all its output is written.

    After captions on ONNX Runtime it ends without the interpreter's clearing up, which frees the model piece by piece
    and takes as long as the search for a caption. What was registered to run at the end does run.
    """
    if "onnxruntime" in sys.modules and "torch" not in sys.modules:
        import atexit
        import threading

        if threading.active_count() == 1:
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
                    stream.flush()
            os._exit(code)
    sys.exit(code)


def _run(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as stop:  # the argument parser: help, the version, wrong usage
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
    except CaptionerError as error:
        report(error)
        return 2
    except KeyboardInterrupt:
        report("interrupted")
        return 130
    except Terminated as stop:
        report(str(stop))
        return 128 + stop.number
    except ReaderGone:
        return 0
    except OSError as error:
        report(_file_error(error))
        return 2
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            report(
                f"the memory does not suffice ({error}); a smaller --batch, smaller pictures or --device cpu need less"
            )
            return 2
        from captioner.commands.packages import OPTIONAL, is_installed, missing

        module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if module in OPTIONAL and not is_installed(module):
            report(missing(module))
            return 2
        if not in_group():
            raise
        import traceback

        traceback.print_exc()
        return 1


def _file_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is None:
        return reason
    return f"{os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename}: {reason}"


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Inside, a request to stop (SIGTERM, SIGHUP) raises `Terminated`, so that unfinished files are removed.

    A second signal ends the process at once. Signals that are ignored, as under ``nohup``, stay ignored.
    """
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


class _Output:
    """Standard output; an error in writing names it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._failures():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._failures():
            self._stream.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._discard()
            raise ReaderGone from None
        except OSError as error:
            self._discard()
            raise OutputError(f"standard output: cannot be written ({error.strerror or error})") from None
        except ValueError:
            if not self._stream.closed:
                raise

    def _discard(self) -> None:
        """Drop what is still buffered, or the interpreter would try to write it once more at its end."""
        with suppress(OSError, ValueError):
            descriptor = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
            self._stream.flush()


class _Messages(_Output):
    """Standard error, whose failures are ignored."""

    @contextmanager
    def _failures(self) -> Iterator[None]:
        with suppress(ReaderGone, OutputError), super()._failures():
            yield


def _occupy_closed_descriptors() -> None:
    """Open the null device in place of closed standard streams, or the next file that is opened would be one."""
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
