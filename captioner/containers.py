"""What the structure of a picture's file says, read before Pillow trusts other parts of it."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import IO, Literal

_LARGEST_TEXT = 1 << 20  # bytes of a PNG's text or profile after unpacking; Pillow's own limit
_TEXT_CHUNKS = (b"iCCP", b"zTXt", b"iTXt", b"tEXt")
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_CHUNKS = 100_000  # of a PNG, beside its pixels
_MOST_STRIPS = 1 << 19  # or tiles of a TIFF; 100 megapixels in tiles of 16 x 16 are 390,625
_MOST_COMMENTS = 10_000  # of a PNM file
_LONGEST_HEADER = 1 << 16  # bytes of a PNM file


def too_many_parts(file: IO[bytes]) -> str:
    """What a file has so much of that Pillow, which reads such parts one by one, would take minutes; "" where it has
    no more than programs write. The file's position changes."""
    file.seek(0)
    start = file.read(16)
    if start.startswith(_PNG):
        return f"more than {_MOST_CHUNKS} chunks" if _has_many_chunks(file) else ""
    if re.match(rb"MM\0[*+]|MM\*\0|II[*+]\0|II\0\*", start):
        return f"more than {_MOST_STRIPS} strips or tiles" if _strips(file, start) > _MOST_STRIPS else ""
    if re.match(rb"P[0-6fy]\w*\s", start):
        return _long_in_pnm(file, start[1:2])
    return ""


def _has_many_chunks(file: IO[bytes]) -> bool:
    at, count = 8, 0
    while count <= _MOST_CHUNKS:
        file.seek(at)
        header = file.read(8)
        if len(header) < 8 or header[4:] == b"IEND":  # nothing behind it is read
            return False
        count += header[4:] != b"IDAT"
        at += 12 + int.from_bytes(header[:4], "big")
    return True


def _strips(file: IO[bytes], start: bytes) -> int:
    """How many strips or tiles the first directory of a TIFF names (TIFF 6.0, section 2; BigTIFF)."""
    order: Literal["little", "big"] = "little" if start[:1] == b"I" else "big"
    is_big = start[2:3] == b"+"  # as Pillow has it
    length, entry, wide = (8, 20, 8) if is_big else (2, 12, 4)
    file.seek(int.from_bytes(start[8:16] if is_big else start[4:8], order))
    entries = min(int.from_bytes(file.read(length), order), 1 << 16)
    directory = file.read(entry * entries)
    most = 0
    for at in range(0, len(directory) - entry + 1, entry):
        if int.from_bytes(directory[at : at + 2], order) in (273, 279, 324, 325):  # offsets and sizes of strips, tiles
            most = max(most, int.from_bytes(directory[at + 4 : at + 4 + wide], order))
    return most


def _long_in_pnm(file: IO[bytes], kind: bytes) -> str:
    file.seek(0)
    header = file.read(_LONGEST_HEADER)
    words = re.sub(rb"#[^\r\n]*", b"", header).split()
    if len(header) == _LONGEST_HEADER and len(words) < (3 if kind in b"14" else 4):
        return f"a header of more than {_LONGEST_HEADER} bytes"
    comments = header.count(b"#") if kind in b"123" else 0  # the others hold no comments among their pixels
    while kind in b"123" and comments <= _MOST_COMMENTS and (block := file.read(1 << 20)):
        comments += block.count(b"#")
    return f"more than {_MOST_COMMENTS} comments" if comments > _MOST_COMMENTS else ""


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
    data = file.read() if file.read(8) == _PNG else b""
    kept, at, total, dropped = [_PNG], 0, 0, False
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 12 + length
        if kind in _TEXT_CHUNKS:
            is_full = total >= 8 * _LARGEST_TEXT  # the rest is dropped, and not unpacked
            size = _LARGEST_TEXT if is_full else _unpacked_size(data[at + 8 : end - 4], kind)
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
