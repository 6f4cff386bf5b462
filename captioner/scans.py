"""The scans of a JPEG file: each costs a pass over all its pixels, and an empty one takes a few dozen bytes.

A file of 20 MB could hold some 280,000 of them, hours of work at 50 megapixels. Encoders write about ten. libtiff, for
JPEG inside TIFF, stops at the same number as this module.
"""

import re
from typing import IO

from captioner.errors import ImageError

MOST_SCANS = 100
_MOST_SEGMENTS = 10_000
_MOST_FILL = 1 << 16  # bytes between two segments before the first scan, which Pillow reads one by one

_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # no stuffed byte and no restart, which are part of a scan
_END, _SCAN = 0xD9, 0xDA
_SEQUENTIAL = frozenset((0xC0, 0xC1, 0xC9))  # starts of frames that are not progressive
_WITHOUT_LENGTH = frozenset((0x01, 0xC8, 0xD8, _END, *range(0xF0, 0xFE)))  # to Pillow, before the first scan
_CHUNK = 1 << 16


def check_scans(file: IO[bytes], name: str) -> None:
    """Refuse a JPEG file of more than `MOST_SCANS` scans; files of other formats pass.

    The scans of a sequential file whose first scan holds all components are not counted, since libjpeg decodes only
    that one. Most photographs are such files, and then only the header is read.

    Args:
        file: can be read and sought; its position changes.
        name: the picture in messages.

    Raises:
        ImageError: it has more.
    """
    file.seek(0)
    if file.read(3) != _START:
        return
    scans, segments, place, components = 0, 0, 2, 0
    after = place  # of the segment before
    while True:
        file.seek(place)
        chunk = file.read(_CHUNK)
        found = _MARKER.search(chunk)
        if found is None:
            if len(chunk) < _CHUNK:
                return
            place += len(chunk) - 1  # the last byte may begin a marker
            if not scans and place - after > _MOST_FILL:
                raise ImageError(
                    f"{name}: a JPEG file with more than {_MOST_FILL} bytes between its segments",
                    remedy="save it as a new file",
                )
            continue
        marker = found[1][0]
        place += found.end()
        if marker == _END and scans:  # what follows, as the video of a moving photograph, is not decoded
            return
        file.seek(place)
        head = file.read(8)
        if marker in _SEQUENTIAL and len(head) == 8:
            components = head[7]
        if marker == _SCAN and not scans and components and len(head) > 2 and head[2] >= components:
            return
        segments += 1
        scans += marker == _SCAN
        if scans > MOST_SCANS or segments > _MOST_SEGMENTS:
            what = f"{MOST_SCANS} scans" if scans > MOST_SCANS else f"{_MOST_SEGMENTS} segments"
            raise ImageError(f"{name}: a JPEG file of more than {what}", remedy="save it as a new file")
        if marker not in _WITHOUT_LENGTH:
            place += max(2, int.from_bytes(head[:2], "big"))
        after = place
