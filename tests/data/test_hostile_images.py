"""Image files made to harm: none is run, none takes all memory, and each is refused in words or read as in training."""

import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data.detection_utils import read_image as read_in_training

from fa_detectron.data.checks.images import check_image_files, scan_images
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.file import read_header
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet, ImageRecord
from fa_detectron.errors import UserError
from fa_detectron.inference import UnreadableImage


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """An RGB picture of one colour; of a large one the pixels are missing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = b"\0" * ((3 * width + 1) * min(height, 64))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    return zlib.compress(b"\0" * count)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n"
REFUSED = {
    "no byte": (b"", "not an image"),
    "a script": (b"#!/bin/sh\ntouch x\n", "not an image"),
    "more pixels than memory": (png(60_000, 60_000), "decompression bomb"),
    "a text that swells": (png(8, 8, chunk(b"zTXt", b"a\0\0" + zeros(100 << 20))), "too large"),
    "a colour profile that swells": (png(8, 8, chunk(b"iCCP", b"a\0\0" + zeros(100 << 20))), "too large"),
    "a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n",
        "which is a program",
    ),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_refused_in_words(tmp_path, kind):
    content, words = REFUSED[kind]
    path = tmp_path / "1.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"1\.png: .*{words}"):
        read_header(path).size(True)
    with pytest.raises(UserError, match=rf"1 images that cannot be read:\n.*1\.png: .*{words}"):
        check_image_files("set", [(str(path), 64, 48)], ImageReader(), Findings(strict=True))
    findings = Findings()
    scan_images(AnnotatedSet("set", (), [ImageRecord(str(path), 1, 64, 48, [], "")]), ImageReader(), findings)
    (found,) = findings.all
    assert words in str(found) and "1 images that cannot be read" in str(found)
    with pytest.raises(UnreadableImage, match=rf"1\.png: .*{words}"):
        ImageReader().read(path)


def test_ghostscript_is_not_started(tmp_path, monkeypatch):
    """Pillow would: it looks at the content, not at the name. Detectron2 opens images by Pillow's means."""
    import fa_detectron.data.training.mapper  # noqa: F401  what a training run imports

    ran = tmp_path / "ran"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gs"
    program.write_text(f"#!{sys.executable}\nopen({str(ran)!r}, 'w')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "1.png").write_bytes(EPS)
    with pytest.raises(OSError, match="Ghostscript"):
        read_in_training(str(tmp_path / "1.png"), "BGR")
    assert not ran.exists()


def exif(entry: bytes, count: int = 1) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", count) + entry + b"\0" * 4


ODD_EXIF = {
    "noise": b"Exif\0\0" + b"\xff" * 40,
    "cut": b"Exif\0\0MM",
    "more entries than bytes": exif(b"\xff" * 60, 65535),
    "an orientation that is a word": exif(struct.pack(">HHI4s", 0x0112, 2, 4, b"abc\0")),
    "an orientation of 99": exif(struct.pack(">HHIHH", 0x0112, 3, 1, 99, 0)),
    "two orientations": exif(struct.pack(">HHIHH", 0x0112, 3, 2, 6, 6)),
    "an orientation far away": exif(struct.pack(">HHII", 0x0112, 3, 9, 2**31)),
    "itself as the next directory": exif(struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0))[:-4] + struct.pack(">I", 8),
}


@pytest.mark.parametrize("kind", list(ODD_EXIF))
def test_odd_exif_is_read_as_in_training(tmp_path, kind):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 48), 80).convert("RGB").save(path, exif=ODD_EXIF[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, over the metadata
        height, width = read_in_training(str(path), "RGB").shape[:2]
        check_image_files("set", [(str(path), width, height)], ImageReader(), Findings(strict=True))
        reader = ImageReader()
        assert read_header(path).size(reader.upright) == (width, height) and reader.read(path).shape == (
            height,
            width,
            3,
        )


def test_a_bomb_that_comes_after_the_checks_is_named(tmp_path, coco):
    from fa_detectron.data.training.mapper import DetectionMapper
    from fa_detectron.engine import load_config
    from tests.engine.tiny import BASE

    data = coco()
    mapper = DetectionMapper(load_config(str(BASE)), is_train=False)
    image = Path(data).parent / "images" / "1.png"
    image.write_bytes(REFUSED["more pixels than memory"][0])
    with pytest.raises(UserError, match=r"image .*1\.png: .*decompression bomb"):
        mapper({"file_name": str(image), "width": 64, "height": 48})
