"""Image files as scanners, cameras and microscopes write them, and Pillow does not: bytes of PNG and TIFF."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


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


def deep_copy(data: str | Path, folder: Path, kind: str = "16-bit PNG") -> Path:
    """A COCO set with deep copies of its images in ``folder``: 16-bit PNG of 466 to 3781, or float TIFF of 0 to 1."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(Path(data).read_text())
    for image in content["images"]:
        source = next(path for path in Path(data).parent.rglob(image["file_name"]))
        pixels = np.asarray(Image.open(source).convert("L"))
        image["file_name"] = f"{source.stem}.{'png' if kind == '16-bit PNG' else 'tif'}"
        encoded = png16(pixels * np.int64(13) + 466) if kind == "16-bit PNG" else tiff(np.float32(pixels) / 255)
        (folder / image["file_name"]).write_bytes(encoded)
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    return path
