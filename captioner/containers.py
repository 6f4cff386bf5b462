"""What the structure of a picture's file says, read before Pillow trusts other parts of it."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import IO

_LARGEST_TEXT = 1 << 20  # bytes of a PNG's text or profile after unpacking; Pillow's own limit
_TEXT_CHUNKS = (b"iCCP", b"zTXt", b"iTXt", b"tEXt")


def icon_sizes(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The (width, height) of each picture in an ICO file as its own header has it, not as the directory does."""
    file.seek(4)
    count = int.from_bytes(file.read(2), "little")
    directory = file.read(16 * count)
    for at in range(0, len(directory) - 15, 16):
        file.seek(int.from_bytes(directory[at + 12 : at + 16], "little"))
        header = file.read(24)
        if header.startswith(b"\x89PNG") and len(header) == 24:
            yield struct.unpack(">II", header[16:24])
        elif len(header) >= 12:
            width, height = struct.unpack("<ii", header[4:12])
            yield abs(width), abs(height) // 2  # the picture, and below it its mask


def codestream_size(file: IO[bytes]) -> tuple[int, int] | None:
    """The (width, height) in a JPEG 2000 codestream (ITU-T T.800, A.5.1): its container may have another."""
    at, kind = 0, b""
    file.seek(0)
    if file.read(4) != b"\xff\x4f\xff\x51":
        while kind != b"jp2c":
            file.seek(at)
            header = file.read(16)
            if len(header) < 16:
                return None
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            start = 16 if length == 1 else 8
            length = int.from_bytes(header[8:16], "big") if length == 1 else length
            if kind == b"jp2c":
                at += start
            elif length < start:
                return None
            else:
                at += length
    file.seek(at)
    header = file.read(24)
    if len(header) < 24 or not header.startswith(b"\xff\x4f\xff\x51"):
        return None
    right, bottom, left, top = struct.unpack(">IIII", header[8:24])
    return max(0, right - left), max(0, bottom - top)


def without_large_text(file: IO[bytes]) -> IO[bytes] | None:
    """A PNG without the texts and profiles that Pillow finds too large; None where there are none."""
    file.seek(0)
    data = file.read() if file.read(8) == b"\x89PNG\r\n\x1a\n" else b""
    kept, at, total, dropped = [b"\x89PNG\r\n\x1a\n"], 0, 0, False
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind in _TEXT_CHUNKS:
            size = _unpacked_size(data[at + 8 : end - 4], kind)
            total += min(size, _LARGEST_TEXT)
            if size >= _LARGEST_TEXT or total >= 8 * _LARGEST_TEXT:
                dropped, at = True, end
                continue
        kept.append(data[at:end])
        at = end
    return io.BytesIO(b"".join(kept)) if dropped else None


def _unpacked_size(chunk: bytes, kind: bytes) -> int:
    """Bytes of a text or profile, no more than `_LARGEST_TEXT`; 0 where it cannot be unpacked."""
    if kind == b"tEXt":
        return len(chunk)
    rest = chunk.partition(b"\0")[2]
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return len(rest)
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    try:
        return len(zlib.decompressobj().decompress(rest, _LARGEST_TEXT))
    except zlib.error:
        return 0
