"""Boxes, classes and images of a set: each defect refused in words, or left out on request."""

import math
from pathlib import Path

import pytest
from PIL import Image

from fa_detectron.data.checks import images as checks
from fa_detectron.data.checks.boxes import box_problem, clean_boxes
from fa_detectron.data.checks.classes import check_classes
from fa_detectron.data.checks.images import check_image_files, check_images_exist
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.file import ImageHeader
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.errors import UserError
from tests.data.reading import clean, read

STRICT = Findings(strict=True)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((4, 4, 4, 9), "empty"),
        ((4, 9, 9, 9), "empty"),
        ((9, 4, 4, 9), "inverted"),
        ((4, 9, 9, 4), "inverted"),
        ((math.nan, 4, 9, 9), "not finite"),
        ((4, 4, math.inf, 9), "not finite"),
        ((70, 4, 80, 9), "leaves the image of 64x48"),
        ((-30, 4, 9, 9), "leaves the image"),
        ((4, 40, 9, 60), "leaves the image"),
        ((64, 4, 65, 9), "outside the image"),
        ((4, 4, 9), "not four numbers"),
        (("4", 4, 9, 9), "not four numbers"),
        ((True, 4, 9, 9), "not four numbers"),
        ((10**400, 4, 9, 9), "too large"),
        (None, "not four numbers"),
        ({}, "not four numbers"),
    ],
)
def test_bad_boxes_are_described(box, message):
    assert message in str(box_problem(box, 64, 48))


@pytest.mark.parametrize("box", [(0, 0, 64, 48), (0.5, 0.5, 1.0, 1.0), (-1, -1, 65, 49), (63, 47, 64, 48)])
def test_good_boxes_pass(box):
    assert box_problem(box, 64, 48) is None


def _spoil(content):
    content["annotations"][0]["bbox"] = [10, 10, -4, 5]
    del content["annotations"][2]["bbox"]


def test_bad_boxes_are_refused_with_their_places_or_skipped_on_request(coco):
    path = coco(_spoil)
    with pytest.raises(UserError) as caught:
        clean(read(path))
    message = str(caught.value)
    assert f"{path}: 2 bad boxes" in message and "--bad-boxes skip" in message
    assert f"annotation 0 in {path} (image 1, class 'cat')" in message and "inverted" in message
    assert "annotation 2" in message and "None" in message

    data = read(path)
    (found,) = clean(data, "skip")
    assert "2 bad boxes left out" in found
    assert [[a.index for a in image.annotations] for image in data.images] == [[1], [], []]


def test_overshoot_of_a_pixel_is_clipped_and_counted(coco):
    data = read(coco(lambda c: c["annotations"][0].update(bbox=[-0.5, 0, 64.9, 48])))
    (found,) = clean(data)
    assert "1 boxes leave their image by a pixel or less" in found
    assert data.images[0].annotations[0].box == (0.0, 0.0, 64.0, 48.0)


def test_boxes_that_leave_their_image_are_clipped_on_request(coco):
    def spoil(content):
        content["annotations"][0]["bbox"] = [-20, 4, 40, 60]
        content["annotations"][1]["bbox"] = [70, 4, 10, 10]

    data = read(coco(spoil))
    left_out, clipped = clean(data, "clip")
    assert "1 bad boxes left out" in left_out and "1 boxes clipped that leave their image" in clipped
    (kept,) = data.images[0].annotations
    assert kept.box == (0.0, 4.0, 20.0, 48.0) and kept.area == 0.0


def test_unknown_classes_are_listed_with_their_counts(coco):
    with pytest.raises(UserError, match=r"1 classes that are not among the 1 classes .*\(ant\).*\n  'cat': 2 boxes"):
        check_classes(read(coco()), ["ant"], STRICT)


def _files(data):
    return [(image.file_name, image.width, image.height) for image in data.images]


def test_missing_unreadable_and_wrongly_sized_images_are_named(coco, tmp_path):
    path = coco()
    data = read(path)
    check_images_exist(path, [image.file_name for image in data.images], STRICT)
    check_image_files(path, _files(data), ImageReader(), STRICT)
    folder = tmp_path / "images"
    Image.new("RGB", (48, 64)).save(folder / "1.png")
    with pytest.raises(UserError, match=r"1 images of another size.*\n.*1\.png: is 48x64, annotated as 64x48"):
        check_image_files(path, _files(data), ImageReader(), STRICT)
    (folder / "2.png").write_bytes(b"no image")
    (folder / "3.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 images that cannot be read:\n.*2\.png.*\n.*3\.png"):
        check_image_files(path, _files(data), ImageReader(), STRICT)
    (folder / "2.png").unlink()
    with pytest.raises(UserError, match=r"1 images that do not exist:\n.*2\.png"):
        check_images_exist(path, [image.file_name for image in data.images], STRICT)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_images_are_found_before_training(tmp_path, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    Image.effect_noise((64, 48), 80).save(whole)
    cut.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(UserError, match=rf"1 images that cannot be read:\n.*cut\{suffix}"):
        check_image_files("set", [(str(whole), 64, 48), (str(cut), 64, 48)], ImageReader(), STRICT)


def test_of_a_large_set_evenly_spread_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "HEADERS", 4)
    monkeypatch.setattr(checks, "DECODED", 2)
    read, decoded = [], []
    monkeypatch.setattr(checks, "read_header", lambda name: read.append(name) or ImageHeader((1, 1), 1, False))
    monkeypatch.setattr(checks, "check_decodes", decoded.append)
    check_image_files("set", [(str(i), 1, 1) for i in range(10)], ImageReader(), STRICT)
    assert (read, decoded) == (["0", "3", "5", "6", "9"], ["0", "5"])


def test_sizes_are_those_after_the_exif_orientation(coco, tmp_path):
    data = read(coco())
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in data.images:
        Image.new("RGB", (48, 64)).save(Path(image.file_name).with_suffix(".jpg"), exif=exif)
        image.file_name = str(Path(image.file_name).with_suffix(".jpg"))
    check_image_files("set", _files(data), ImageReader(), STRICT)


@pytest.mark.parametrize("mode", ["stop", "clip", "skip"])
@pytest.mark.parametrize(("bbox", "fits"), [([44, 4, 20, 10], True), ([44, 4, 40, 10], False)])
def test_boxes_of_the_stored_pixels_without_a_size_are_told_with_the_option(coco, tmp_path, mode, bbox, fits):
    def edit(content):
        for image in content["images"]:
            del image["width"], image["height"]
        content["annotations"] = [{**content["annotations"][0], "bbox": bbox}]

    path = coco(edit)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (tmp_path / "images").iterdir():
        Image.new("RGB", (64, 48)).save(image, exif=exif)
    clean_boxes(read(path), mode, findings := Findings())
    (text,) = [str(found) for found in findings.all if found.items]
    assert ("1 of them fit the image before the rotation" in text) == ("INPUT.EXIF_ORIENTATION False" in text) == fits


def test_a_refusal_does_not_repeat_what_has_been_logged(caplog):
    findings = Findings(strict=True)
    findings.problem("set", "boxes", ["one"])
    findings.log()
    findings.problem("set", "images", ["two"])
    with pytest.raises(UserError):
        findings.refuse("set", "classes", ["three"])
    assert [record.getMessage().split()[2] for record in caplog.records] == ["boxes:", "images:"]
