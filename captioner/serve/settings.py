"""What a server is told when it starts, and the limits that keep it standing."""

from dataclasses import dataclass, field, fields
from typing import Any

from captioner.errors import OptionError

MEGABYTE = 1_000_000


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
    max_held: int = _option(256, "megabytes of all uploads at a time; more is answered 503")
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
