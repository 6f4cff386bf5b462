"""The scans of a JPEG file: each costs a pass over all its pixels, and an empty one takes a few dozen bytes.

A file of 20 MB could hold some 280,000 of them, hours of work at 50 megapixels. Encoders write about ten. libtiff, for
JPEG inside TIFF, stops at the same number as this module.
"""

import re

from captioner.errors import ImageError

MOST_SCANS = 100
_MOST_SEGMENTS = 10_000

_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # no stuffed byte and no restart, which are part of a scan
_END, _SCAN = 0xD9, 0xDA
_WITHOUT_LENGTH = frozenset((0x01, 0xD8))


def check_scans(data: bytes) -> None:
    """Refuse a JPEG file of more than `MOST_SCANS` scans; data of other formats passes.

    Raises:
        ImageError: it has more.
    """
    if not data.startswith(_START):
        return
    scans, segments, place = 0, 0, 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == _END:  # what follows, as the video of a moving photograph, is not decoded
            return
        segments += 1
        scans += marker == _SCAN
        if scans > MOST_SCANS or segments > _MOST_SEGMENTS:
            what = f"{MOST_SCANS} scans" if scans > MOST_SCANS else f"{_MOST_SEGMENTS} segments"
            raise ImageError(f"a JPEG file of more than {what}", remedy="save it as a new file")
        if marker not in _WITHOUT_LENGTH:
            place += max(2, int.from_bytes(data[place : place + 2]))
