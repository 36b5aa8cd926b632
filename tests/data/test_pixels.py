"""One image, one reading: what training sees is what prediction sees, for every kind of file."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.config import CfgNode, get_cfg
from detectron2.data.detection_utils import read_image as detectron2_read_image
from detectron2.utils import logger as detectron2_logger

from fa_detectron import add_feature_align_config
from fa_detectron.data.images import pixels
from fa_detectron.data.images.file import read_header
from fa_detectron.data.images.pixels import ImageReader, scale_values
from fa_detectron.data.training.mapper import DetectionMapper
from fa_detectron.errors import UnreadableImage, UserError
from tests.data.image_files import png16, tiff

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
TURNED = {  # by EXIF's definition: where row 0 and column 0 of the stored image lie on the upright one
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: lambda a: np.rot90(a, 1),
}


def config(**keys) -> CfgNode:
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.FORMAT = 0, "RGB"  # 0: not resized
    for key, value in keys.items():
        cfg.INPUT[key] = value
    return cfg


def seen(path, cfg: CfgNode) -> np.ndarray:
    """The pixels of a file, (H, W, 3), which training, evaluation and prediction must agree about, and so the size."""
    reader = ImageReader.from_config(cfg)
    predicted = reader.read(path)
    assert predicted.dtype == np.uint8 and predicted.flags.writeable and predicted.flags.c_contiguous
    height, width = predicted.shape[:2]
    assert read_header(path).size(reader.upright) == (width, height)
    record = {"file_name": str(path), "width": width, "height": height}
    np.testing.assert_array_equal(DetectionMapper(cfg, is_train=False)(record)["image"].permute(1, 2, 0), predicted)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (0,), "none"
    np.testing.assert_array_equal(DetectionMapper(cfg, is_train=True)(record)["image"].permute(1, 2, 0), predicted)
    np.testing.assert_array_equal(reader.to_rgb(path), predicted)
    with Image.open(path) if is_pillows(path) else io.BytesIO() as image:
        if is_pillows(path):
            np.testing.assert_array_equal(reader.to_rgb(image), predicted)
    return predicted


def is_pillows(path) -> bool:
    try:
        Image.open(path).close()
    except OSError:
        return False
    return True


def picture(mode: str) -> Image.Image:
    image = Image.fromarray(RGB)
    if mode == "P with a transparent colour":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
        image.info["transparency"] = 3
        return image
    if mode == "P with transparency":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
        image.info["transparency"] = bytes(range(0, 256, 32))
        return image
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(GREY))
    return image.convert(mode)


EIGHT_BITS = [
    *[(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")],
    *[(mode, "PNG") for mode in ("P with a transparent colour", "P with transparency")],
    *[(mode, "TIFF") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")],
    *[(mode, "JPEG") for mode in ("RGB", "L", "CMYK")],
    ("RGB", "JFIF"), ("RGB", "MPO"), ("P", "GIF"), ("P with a transparent colour", "GIF"),
    ("RGB", "WEBP"), ("RGBA", "WEBP"), ("RGB", "BMP"), ("RGB", "PPM"), ("L", "PPM"),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "kind"), EIGHT_BITS, ids=lambda word: word)
def test_eight_bits_are_what_detectron2_reads(tmp_path, mode, kind):
    path = tmp_path / f"a.{kind.lower()}"
    picture(mode).save(path, format={"JFIF": "JPEG"}.get(kind, kind))
    np.testing.assert_array_equal(seen(path, config()), detectron2_read_image(str(path), "RGB"))
    # A range changes nothing for them.
    np.testing.assert_array_equal(seen(path, config(PIXEL_RANGE=[0, 7])), detectron2_read_image(str(path), "RGB"))
    assert not read_header(path).deep


def test_of_an_animation_and_of_a_stack_the_first_picture_counts(tmp_path):
    first, second = Image.fromarray(RGB), Image.fromarray(255 - RGB)
    for name in ("a.gif", "a.webp", "a.png", "a.tif", "a.mpo"):
        options = {"lossless": True} if name == "a.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        expected = detectron2_read_image(str(tmp_path / name), "RGB")
        np.testing.assert_array_equal(seen(tmp_path / name, config()), expected)
        assert np.abs(expected.astype(int) - RGB).mean() < 60  # not the second


def test_bgr_models_get_bgr(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png")}
    item = DetectionMapper(config(FORMAT="BGR"), is_train=False)(record)
    np.testing.assert_array_equal(item["image"].permute(1, 2, 0).flip(2), RGB)
    assert (item["height"], item["width"]) == (5, 7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "MPO", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a"
    Image.fromarray(RGB).save(path, format=kind, exif=exif)
    stored = seen(path, config(EXIF_ORIENTATION=False))
    assert stored.shape == RGB.shape
    if kind in ("PNG", "TIFF"):  # without loss
        np.testing.assert_array_equal(stored, RGB)
    np.testing.assert_array_equal(seen(path, config()), TURNED[orientation](stored))
    if kind != "TIFF":  # Detectron2 turns these twice, as Pillow has turned them by itself
        np.testing.assert_array_equal(seen(path, config()), detectron2_read_image(str(path), "RGB"))


DEEP = {
    "16-bit PNG": png16,
    "16-bit TIFF": lambda v, o=1: tiff(v.astype(np.uint16), o),
    "signed 16-bit TIFF": lambda v, o=1: tiff(v.astype(np.int16), o),
    "32-bit TIFF": lambda v, o=1: tiff(v.astype(np.int32), o),
    "unsigned 32-bit TIFF": lambda v, o=1: tiff(v.astype(np.uint32), o),
    "float TIFF": lambda v, o=1: tiff(v.astype(np.float32), o),
    "64-bit float TIFF": lambda v, o=1: tiff(v.astype(np.float64), o),
}
NEEDS_OPENCV = ("64-bit float TIFF", "unsigned 32-bit TIFF")


@pytest.mark.parametrize("channels", ["grey", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", list(DEEP))
def test_deep_images_are_scaled_by_the_range(tmp_path, kind, channels):
    if channels != "grey" or kind == "64-bit float TIFF":
        pytest.importorskip("cv2")
    values = RGB.astype(np.int64) * 13 + 466
    values = {"grey": values[:, :, 0], "RGB": values, "RGBA": np.dstack([values, values[:, :, :1]])}[channels]
    expected = np.dstack([GREY] * 3) if channels == "grey" else RGB
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}"
        path.write_bytes(DEEP[kind](values, orientation))
        assert read_header(path).deep
        cfg = config(PIXEL_RANGE=[466, 466 + 255 * 13])
        np.testing.assert_array_equal(seen(path, cfg), TURNED[orientation](expected))
        cfg.INPUT.EXIF_ORIENTATION = False
        np.testing.assert_array_equal(seen(path, cfg), expected)


def test_unsigned_32_bits_above_the_signed_ones(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(np.array([[0, 4_000_000_000]], dtype=np.uint32)))
    found = ImageReader((0, 4e9)).read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found[:, :, 0], [[0, 255]])


@pytest.mark.parametrize("name", ["a.pgm", "a.ppm"])
def test_sixteen_bit_ppm(tmp_path, name):
    if name == "a.ppm":
        pytest.importorskip("cv2")
    values = (RGB if name == "a.ppm" else GREY).astype(">u2") * 257
    (tmp_path / name).write_bytes(b"P%d\n7 5\n65535\n" % (6 if name == "a.ppm" else 5) + values.tobytes())
    found = seen(tmp_path / name, config(PIXEL_RANGE=[0, 65535]))
    np.testing.assert_array_equal(found, RGB if name == "a.ppm" else np.dstack([GREY] * 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(np.zeros((5, 7, 3), np.uint16), planes=2), "separate colour planes; save it with interleaved"),
        (tiff(np.zeros((5, 7, 3), np.float32), planes=2), "separate colour planes"),
        (tiff(np.zeros((5, 7, 4), np.uint16), photometric=5), "4 channels of 16 bits, neither grey nor RGB"),  # CMYK
        (tiff(np.zeros((5, 7, 2), np.uint16)), "2 channels of 16 bits"),
        (tiff(np.zeros((5, 7, 5), np.uint16)), "5 channels of 16 bits"),
        (tiff(np.zeros((5, 7), np.float16)), "of a kind that OpenCV .* cannot decode"),
        (tiff(np.zeros((5, 7, 3), np.float32))[:-8], "a.tif: damaged"),
        (tiff(np.zeros((5, 7, 3), np.uint16))[:200], "a.tif: "),
    ],
)
def test_deep_images_that_nothing_decodes_rightly_are_refused(tmp_path, content, message):
    pytest.importorskip("cv2")
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UnreadableImage, match=message):
        ImageReader((0, 1)).read(tmp_path / "a.tif")


def test_a_pil_image_that_has_lost_bits_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(RGB.astype(np.uint16)))
    with Image.open(tmp_path / "a.tif") as image:
        image.load()
        with pytest.raises(UnreadableImage, match="photo: Pillow reduces this image to 8 bits per channel"):
            ImageReader((0, 255)).to_rgb(image, name="photo")


def test_without_opencv_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    (tmp_path / "a.png").write_bytes(png16(np.zeros((5, 7, 3), np.uint16)))
    with pytest.raises(UserError, match=r"a\.png: .*need OpenCV: pip install opencv-python-headless"):
        ImageReader((0, 1)).read(tmp_path / "a.png")


def test_a_deep_image_without_a_range_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(png16(np.array([[466, 3408]])))
    message = r"a\.png: its pixels are uint16, values 466 to 3408, and INPUT\.PIXEL_RANGE.* is empty"
    with pytest.raises(UnreadableImage, match=message):
        ImageReader().read(tmp_path / "a.png")
    with pytest.raises(UserError, match=f"image .*{message}"):
        DetectionMapper(config(), is_train=False)({"file_name": str(tmp_path / "a.png")})
    (tmp_path / "b.tif").write_bytes(tiff(np.array([[np.nan]], dtype=np.float32)))
    with pytest.raises(UnreadableImage, match="float32, none of them a finite number"):
        ImageReader().read(tmp_path / "b.tif")


@pytest.mark.parametrize("found", [[1], [3, 3], [4, 2], [0, float("nan")], ["a", "b"], [0, 1, 2]])
def test_a_range_that_is_none(found):
    with pytest.raises(UserError, match=r"INPUT\.PIXEL_RANGE is .*\[LOW, HIGH\]"):
        ImageReader.from_config(config(PIXEL_RANGE=found))


def test_values_outside_the_range_are_clipped_and_nan_is_black():
    values = np.array([[-np.inf, np.nan, -1, 0, 0.5, 1, 9, np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(scale_values(values, 0, 1), [[0, 0, 0, 0, 128, 255, 255, 255]])
    large = np.array([[10**9, 10**9 + 50, 10**9 + 100]], dtype=np.int32)  # float32 would not tell them apart
    np.testing.assert_array_equal(scale_values(large, 1e9, 1e9 + 100), [[0, 128, 255]])


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What is logged, each message as though it were the first."""
    monkeypatch.setattr(logging.getLogger("fa_detectron"), "propagate", True)
    monkeypatch.setattr(detectron2_logger, "_LOG_COUNTER", type(detectron2_logger._LOG_COUNTER)())
    caplog.set_level(logging.WARNING, pixels.__name__)
    return caplog


def test_an_image_outside_the_range_is_named(warnings):
    reader = ImageReader((466, 3408))
    assert reader.to_rgb(np.full((5, 7), 100, np.uint16), name="dark").max() == 0  # one value: nothing is lost
    assert not warnings.messages
    assert reader.to_rgb(GREY / 255, name="photo").max() == 0
    assert (
        "photo: all its pixels (values 0" in warnings.text and "outside INPUT.PIXEL_RANGE 466 to 3408" in warnings.text
    )


def test_eight_bits_where_the_run_has_a_range_are_named(warnings):
    np.testing.assert_array_equal(ImageReader((466, 3408)).to_rgb(RGB, name="photo"), RGB)
    assert "photo has 8 bits a channel and is taken as it is" in warnings.text


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (RGB, "RGB"),
        (RGB[:, :, ::-1], "BGR"),
        (np.dstack([RGB, RGB[:, :, :1]]), "RGB"),
        (np.dstack([RGB[:, :, ::-1], RGB[:, :, :1]]), "BGR"),
        (RGB / 255, "RGB"),
        (Image.fromarray(RGB), "BGR"),
        (torch.from_numpy(RGB).permute(2, 0, 1), "RGB"),
        (torch.from_numpy(RGB).permute(2, 0, 1).flip(0), "BGR"),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, "RGB"),
    ],
)
def test_arrays_tensors_and_pil_images_are_the_same_image(image, colour):
    np.testing.assert_array_equal(ImageReader().to_rgb(image, colour), RGB)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_deep_arrays_and_tensors_are_scaled_as_the_files_are(dtype):
    reader, values = ImageReader((466, 466 + 255 * 13)), RGB.astype(dtype) * dtype(13) + dtype(466)
    np.testing.assert_array_equal(reader.to_rgb(values), RGB)
    np.testing.assert_array_equal(reader.to_rgb(values[:, :, ::-1], "BGR"), RGB)
    np.testing.assert_array_equal(reader.to_rgb(torch.from_numpy(values).permute(2, 0, 1)), RGB)


def test_grey_arrays_and_tensors():
    for image in (GREY, GREY[:, :, None], torch.from_numpy(GREY.copy()), torch.from_numpy(GREY.copy())[None]):
        np.testing.assert_array_equal(ImageReader().to_rgb(image), np.dstack([GREY] * 3))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "some pixels, got \\(0, 5, 3\\)"),
        (np.zeros((3, 5, 7), np.uint8), "\\(H, W, C\\)"),
        (torch.zeros(5, 7, 3), "\\(C, H, W\\)"),
        (np.zeros((5, 7), bool), "they are bool"),
        (np.zeros((5, 7), np.int64), "its pixels are int64, values 0 to 0, and INPUT.PIXEL_RANGE"),
        (RGB.astype(np.uint16), "its pixels are uint16"),
        (RGB.astype(np.float32), "its pixels are float32, values 0 to 25"),
        (np.full((2, 2), np.nan), "none of them a finite number"),
        (7, "got int"),
    ],
)
def test_what_cannot_be_an_image_is_refused(image, message):
    with pytest.raises(UserError, match=f"image 4: .*{message}"):
        ImageReader().to_rgb(image, name="image 4")


def test_what_is_no_image_is_named(tmp_path):
    read = ImageReader().read
    (tmp_path / "text.jpg").write_text("not pixels")
    with pytest.raises(UnreadableImage, match=r"text\.jpg: not an image, whatever its name says"):
        read(tmp_path / "text.jpg")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UnreadableImage, match=r"empty\.png: not an image"):
        read(tmp_path / "empty.png")
    Image.fromarray(RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg: damaged image"):
        read(tmp_path / "cut.jpg")
    with Image.open(tmp_path / "cut.jpg") as image, pytest.raises(UnreadableImage, match="photo: damaged image"):
        ImageReader().to_rgb(image, name="photo")
    with pytest.raises(UnreadableImage, match=r"none\.jpg: No such file"):
        read(tmp_path / "none.jpg")
