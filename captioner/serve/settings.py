"""The limits of a server. Together they bound what any request can cost; no request can raise them.

- Bytes: a request is read while it stays within ``max_upload``, ``max_request`` and, with all others, ``max_held``; an
  answer has at most ``max_answer`` and counts as held until it has been read. A client that reads nothing for 30
  seconds, or has not read all after 120, is disconnected.
- Pixels: a picture of more than ``max_pixels`` is refused by its header, and so is a JPEG file of more than 100 scans;
  two pictures at most are decoded at a time for captions, and one for questions. Pages, figures and the viewer use
  the copy that was made then, of at most `KEPT_PIXELS` a side.
- Search: beams of at most 10, captions of at most 50 words, ``batch`` pictures together, ``queue`` pictures in all.
- Drawing: one figure or page at a time. A figure has at most `FIGURE_PIXELS` a side whatever the picture's shape; a
  page holds at most ``max_files`` pictures.
- Time: ``upload_seconds`` for a request to arrive, ``timeout`` for its answer. Work for a request that has timed out,
  or whose client has left, is not begun; drawing and writing under way stop at the next panel or picture.
- Connections: ``max_connections``; one that brings no head of a request for 30 seconds is closed.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from captioner.errors import OptionError
from captioner.show import FIGURE_PIXELS

MEGABYTE = 1_000_000
KEPT_PIXELS = 1024
"""Longest side of the copy of a picture that pages, figures and the viewer show."""
BOUND = f"""The cost of a request has a bound, whatever the request holds. A picture with more than --max-pixels is
refused by its header, and three pictures are decoded at a time, one of them for questions; pages and figures show
copies of at most {KEPT_PIXELS} pixels a side, and a figure has at most {FIGURE_PIXELS} pixels a side. Beams are at
most 10 wide and captions 50 words long. A request has --timeout seconds; work for one that has timed out, or whose
client has left, stops.
Uploads and unread answers hold about --max-held megabytes together, and --max-answer more for each request that
is being answered."""


def _option(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a server takes on at once. Each is an option of ``captioner serve``.

    Raises:
        OptionError: a limit that is not positive, or limits that exclude each other.
    """

    batch: int = _option(8, "pictures captioned together")
    wait_ms: int = _option(8, "milliseconds that a batch waits for more pictures")
    queue: int = _option(64, "pictures that may wait; one more is answered 503")
    max_upload: int = _option(20, "megabytes of one picture")
    max_request: int = _option(64, "megabytes of one request")
    max_answer: int = _option(64, "megabytes of one answer")
    max_held: int = _option(256, "megabytes of all uploads and unread answers at a time; more is answered 503")
    max_pixels: int = _option(50_000_000, "pixels of one picture")
    max_files: int = _option(16, "pictures of one request")
    max_connections: int = _option(256, "clients at a time")
    upload_seconds: int = _option(60, "a request must have arrived after so many")
    timeout: int = _option(60, "seconds in which a request that has arrived is answered")

    def __post_init__(self) -> None:
        for each in fields(self):
            value, least = getattr(self, each.name), 0 if each.name == "wait_ms" else 1
            if value < least:
                raise OptionError(f"{flag(each.name)} must be at least {least}, not {value}")
        self._check_order("max_files", "queue")
        self._check_order("max_upload", "max_request")
        self._check_order("max_request", "max_held")

    def _check_order(self, small: str, large: str) -> None:
        if getattr(self, small) > getattr(self, large):
            raise OptionError(
                f"{flag(small)} {getattr(self, small)} is more than {flag(large)} {getattr(self, large)} lets through"
            )


def flag(name: str) -> str:
    """The option of the command line: "max_files" is --max-files."""
    return "--" + name.replace("_", "-")
