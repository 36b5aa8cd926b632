"""Image files from anywhere: pixels or words, the same before training as in it; nothing is started."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.config import get_cfg

from fa_detectron import add_feature_align_config
from fa_detectron.data.checks.images import check_image_files, scan_images
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.file import read_header
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.records import AnnotatedSet, ImageRecord
from fa_detectron.data.training.mapper import DetectionMapper
from fa_detectron.errors import UserError
from fa_detectron.inference import UnreadableImage
from tests.data.image_files import png16, tiff
from tests.data.test_hostile_images import EPS, ODD_EXIF
from tests.fuzz.cases import example, fuzz, mutate_bytes

FORMATS = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("TIFF", "RGB"),
           ("TIFF", "F"), ("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGBA"), ("PPM", "RGB"), ("ICO", "RGBA"),
           ("TGA", "RGB"), ("JPEG2000", "RGB"), ("SGI", "RGB"), ("PCX", "P"), ("DDS", "RGB"), ("MPO", "RGB"),
           ("ICNS", "RGBA"), ("MSP", "1"), ("XBM", "1")]  # fmt: skip


def encoded(kind: str, mode: str, **options) -> bytes:
    stream = io.BytesIO()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (16, 24, 4), dtype=np.uint8), "RGBA").convert("RGB")
    picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def samples() -> list[bytes]:
    found = [EPS, *(encoded("JPEG", "RGB", exif=exif) for exif in ODD_EXIF.values())]
    found += [encoded(kind, "RGB", exif=ODD_EXIF["two orientations"]) for kind in ("PNG", "WEBP", "TIFF")]
    deep = np.random.default_rng(0).integers(0, 65536, (16, 24, 3)).astype(np.uint16)
    found += [png16(deep, 6), tiff(deep, 6), tiff(deep.astype(np.float32)), tiff(deep[:, :, 0].astype(np.float64), 8)]
    for kind, mode in FORMATS:
        try:
            found.append(encoded(kind, mode))
        except (KeyError, OSError, ValueError):  # not in this build of Pillow
            continue
    return found


SAMPLES = samples()


@st.composite
def files(draw) -> bytes:
    data = draw(st.sampled_from(SAMPLES))
    return mutate_bytes(draw, data) if draw(st.integers(0, 9)) else data


@pytest.fixture(scope="module")
def mapper() -> DetectionMapper:
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.INPUT.PIXEL_RANGE = [0, 255]  # of images of more than 8 bits
    return DetectionMapper(cfg, is_train=False)


def ends(call, *arguments):
    """The value; None where the call ends in words."""
    try:
        return call(*arguments)
    except UserError as error:
        assert str(error) and "Traceback" not in str(error)
        return None


@fuzz
@given(files())
def test_images(tmp_path_factory, mapper, data):
    path = tmp_path_factory.getbasetemp() / "1.png"
    path.write_bytes(data)
    with example(data, path.parent), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, over metadata
        reader = ImageReader((0, 255))
        header = ends(read_header, str(path))
        width, height = header.size(reader.upright) if header else (24, 16)
        record = {"file_name": str(path), "width": width, "height": height}
        checked = ends(
            lambda: check_image_files("set", [(str(path), width, height)], reader, Findings(strict=True)) or True
        )
        trained = ends(mapper, record)
        assert trained is not None or not checked, "the checks pass what training refuses"
        digests = scan_images(
            AnnotatedSet("set", (), [ImageRecord(str(path), 1, width, height, [], "")]), reader, Findings()
        )
        assert set(digests) <= {str(path)}
        try:
            pixels = reader.read(path)
            assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
        except UnreadableImage as error:
            assert str(error)
