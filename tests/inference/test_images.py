"""Every kind of image becomes RGB; what is none is refused by name."""

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image as detectron2_read_image
from PIL import Image

from fa_detectron.errors import UserError
from fa_detectron.inference import UnreadableImage, read_image, to_rgb

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("1", "png"), ("CMYK", "tif")],
)
def test_modes_are_read_as_detectron2_reads_them_in_training(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).convert(mode).save(path)
    array = read_image(path)
    assert array.dtype == np.uint8 and array.flags.writeable
    np.testing.assert_array_equal(array, detectron2_read_image(str(path), "RGB"))


def test_sixteen_bits_are_scaled_by_the_full_range(tmp_path):
    grey = np.array([[0, 1000], [32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(grey).save(tmp_path / name)
        array = read_image(tmp_path / name)
        np.testing.assert_array_equal(array[:, :, 0], [[0, 4], [128, 255]])
        assert array.shape == (2, 2, 3)
    np.testing.assert_array_equal(to_rgb(grey), array)


def test_float_tiff_has_no_known_range_but_0_to_1(tmp_path):
    Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[:, :, 0], [[0, 255]])
    Image.fromarray(np.array([[0.0, 9.0]], dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(UnreadableImage, match=r"b\.tif: floating-point pixels must lie between 0 and 1"):
        read_image(tmp_path / "b.tif")
    Image.fromarray(np.array([[-1, 9]], dtype=np.int32)).save(tmp_path / "c.tif")
    with pytest.raises(UnreadableImage, match=r"c\.tif: 32 bits a pixel, values -1 to 9"):
        read_image(tmp_path / "c.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_in_training(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    array = read_image(tmp_path / "a.jpg")
    assert array.shape[:2] == ((7, 5) if orientation > 4 else (5, 7))
    np.testing.assert_array_equal(array, detectron2_read_image(str(tmp_path / "a.jpg"), "RGB"))


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("not pixels")
    with pytest.raises(UnreadableImage, match=r"text\.jpg: not an image, whatever its name says"):
        read_image(tmp_path / "text.jpg")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UnreadableImage, match=r"empty\.png: not an image"):
        read_image(tmp_path / "empty.png")
    Image.fromarray(RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg: damaged image"):
        read_image(tmp_path / "cut.jpg")
    with pytest.raises(UnreadableImage, match=r"none\.jpg: No such file"):
        read_image(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (RGB, "RGB"),
        (RGB[:, :, ::-1], "BGR"),
        (np.dstack([RGB, RGB[:, :, :1]]), "RGB"),
        (np.dstack([RGB[:, :, ::-1], RGB[:, :, :1]]), "BGR"),
        (RGB.astype(np.uint16) * 257, "RGB"),
        (RGB / 255, "RGB"),
        (Image.fromarray(RGB), "BGR"),
        (torch.from_numpy(RGB).permute(2, 0, 1), "RGB"),
        (torch.from_numpy(RGB).permute(2, 0, 1).flip(0), "BGR"),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255, "RGB"),
    ],
)
def test_arrays_tensors_and_pil_images_are_the_same_image(image, colour):
    np.testing.assert_array_equal(to_rgb(image, colour), RGB)


def test_grey_arrays_and_tensors():
    grey = RGB[:, :, 0]
    for image in (grey, grey[:, :, None], torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(to_rgb(image), np.dstack([grey] * 3))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "some pixels, got \\(0, 5, 3\\)"),
        (np.zeros((3, 5, 7), np.uint8), "\\(H, W, C\\)"),
        (torch.zeros(5, 7, 3), "\\(C, H, W\\)"),
        (np.zeros((5, 7), np.int64), "they are int64"),
        (RGB.astype(np.float32), "between 0 and 1"),
        (np.full((2, 2), np.nan), "between 0 and 1"),
        (7, "got int"),
    ],
)
def test_what_cannot_be_an_image_is_refused(image, message):
    with pytest.raises(UserError, match=f"image 4: .*{message}"):
        to_rgb(image, name="image 4")
