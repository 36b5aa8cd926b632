"""Image files as scanners, cameras and microscopes write them, and Pillow does not: bytes of PNG and TIFF."""

import struct
import zlib

import numpy as np


def png16(values: np.ndarray, orientation: int = 1) -> bytes:
    """A PNG of 16 bits a channel: (H, W) grey, (H, W, 2) with transparency, (H, W, 3) RGB, (H, W, 4) RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    colour = 0 if values.ndim == 2 else {2: 4, 3: 2, 4: 6}[values.shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)
    turn = chunk(b"eXIf", exif) if orientation != 1 else b""
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + turn + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, orientation: int = 1, planes: int = 1, photometric: int | None = None) -> bytes:
    """A TIFF without compression: (H, W) or (H, W, C) of any number type; ``planes`` 2: one after the other."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    stored = np.moveaxis(values, -1, 0) if planes == 2 else values
    pixels = stored.astype(values.dtype.newbyteorder("<")).tobytes()
    strips = channels if planes == 2 else 1
    entries, more = [], b""

    def add(tag: int, code: str, *numbers: int) -> None:
        nonlocal more
        data = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(data) > 4:
            data, more = struct.pack("<I", 8 + len(pixels) + len(more)), more + data
        entries.append(struct.pack("<HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + data.ljust(4, b"\0"))

    add(256, "I", width)
    add(257, "I", height)
    add(258, "H", *[8 * values.dtype.itemsize] * channels)
    add(259, "H", 1)
    add(262, "H", (2 if channels >= 3 else 1) if photometric is None else photometric)
    add(273, "I", *[8 + i * (len(pixels) // strips) for i in range(strips)])
    add(274, "H", orientation)
    add(277, "H", channels)
    add(278, "I", height)
    add(279, "I", *[len(pixels) // strips] * strips)
    add(284, "H", planes)
    if channels == 4 and photometric is None:
        add(338, "H", 2)
    add(339, "H", *[{"u": 1, "i": 2, "f": 3}[values.dtype.kind]] * channels)
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(more)) + pixels + more + directory
