"""Sets of more than 8 bits a channel: the range that is measured, what check_data says, and sets read as stored."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog

from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
from fa_detectron.data.builtin.scenes import render_scene
from fa_detectron.data.images.pixel_range import measure_range
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object
from tests.data.image_files import deep_copy, png16, tiff

RNG = np.random.default_rng(5)


def write(folder: Path, *arrays: np.ndarray) -> list[str]:
    paths = [folder / f"{index}.{'png' if a.dtype == np.uint16 else 'tif'}" for index, a in enumerate(arrays)]
    for path, array in zip(paths, arrays):
        path.write_bytes(png16(array) if array.dtype == np.uint16 else tiff(array))
    return [str(path) for path in paths]


def measured(folder: Path, *arrays: np.ndarray) -> tuple[float, float]:
    found = measure_range(write(folder, *arrays), ImageReader())
    return found.low, found.high


def test_deep_copies_of_the_built_in_set_are_the_same_images(tmp_path):
    pytest.importorskip("cv2")
    scenes = [render_scene((1, index), 96, 128).image for index in range(6)]  # (H, W, 3) uint8
    for name, copies in {
        "16 bits": [scene.astype(np.uint16) * 11 + 466 for scene in scenes],
        "floating point": [(scene / 255).astype(np.float32) for scene in scenes],
    }.items():
        (tmp_path / name).mkdir()
        files = write(tmp_path / name, *copies)
        found = measure_range(files, ImageReader())
        for file, scene in zip(files, scenes):
            difference = np.abs(ImageReader((found.low, found.high)).read(file).astype(int) - scene)
            assert difference.max() <= 3 and difference.mean() < 1


def test_a_few_odd_pixels_do_not_count(tmp_path):
    image = RNG.integers(466, 3409, (100, 120)).astype(np.uint16)
    image[0, 0], image[0, 1] = 466, 3408
    assert measured(tmp_path, image) == (466, 3408)  # nothing is clipped
    image[50, 60:66] = 65535
    low, high = measured(tmp_path, image)
    assert low == 466 and 3408 <= high < 3800


def test_nearly_all_pixels_equal(tmp_path):
    image = np.full((100, 100), 5, np.uint16)
    image[3, 4] = 900
    assert measured(tmp_path, image) == (5, 900)


def test_the_sample_is_the_same_each_time(tmp_path):
    images = [RNG.normal(1000, 200 + i, (200, 200)).astype(np.float32) for i in range(3)]
    assert measured(tmp_path, *images) == measured(tmp_path, *images)


def test_pixels_that_are_no_numbers(tmp_path):
    first, second = (RNG.random((20, 20), dtype=np.float32) for _ in range(2))
    first[:3], first[4] = np.nan, np.inf
    found = measure_range(write(tmp_path, first, second), ImageReader())
    assert 0 <= found.low < found.high <= 1 and [Path(path).stem for path in found.not_finite] == ["0"]
    with pytest.raises(UserError, match=r"0\.tif and 0 more images .*: none has a finite pixel value"):
        measured(tmp_path, np.full((5, 5), np.nan, np.float32))


def test_constant_images_have_no_range(tmp_path):
    with pytest.raises(UserError, match=r"1 more images of more than 8 bits a channel: all pixels have the value 7"):
        measured(tmp_path, np.full((5, 5), 7, np.uint16), np.full((5, 5), 7, np.uint16))


@pytest.fixture
def noisy(coco, tmp_path) -> str:
    """A COCO set of distinct images, 64x48."""
    path = coco()
    for index in (1, 2, 3):
        Image.fromarray(RNG.integers(0, 256, (48, 64), dtype=np.uint8)).save(tmp_path / "images" / f"{index}.png")
    return path


@pytest.mark.parametrize(("kind", "low", "high"), [("16-bit PNG", 466, 3781), ("float TIFF", 0, 1)])
def test_check_data_measures_and_tells_deep_images_apart(noisy, check, tmp_path, kind, low, high):
    path = deep_copy(noisy, tmp_path / "deep", kind)
    status, text, found = check(path)
    assert status == 0, text  # they are not "the same pixels"
    assert found["pixel_range"] == pytest.approx([low, high], abs=0.01 * high)
    assert "become 0 to 255 (measured on 3 images); stored as INPUT.PIXEL_RANGE" in text
    with Image.open(tmp_path / "out" / "sheet.jpg") as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(float)
    assert pixels[40:200, 10:300].std() > 20  # neither black nor white


def test_check_data_of_eight_bits_says_nothing_of_ranges(noisy, check):
    _, text, found = check(noisy)
    assert found["pixel_range"] is None and "PIXEL_RANGE" not in text


def test_same_deep_pixels_are_found(noisy, check, tmp_path):
    path = deep_copy(noisy, tmp_path / "deep")
    (tmp_path / "deep" / "2.png").write_bytes((tmp_path / "deep" / "1.png").read_bytes())
    status, text, _ = check(path)
    assert status == 1 and "1 groups of images with the same pixels" in text


def test_a_set_of_both_depths_is_a_likely_mistake(noisy, check, tmp_path):
    path = deep_copy(noisy, tmp_path / "deep")
    Image.new("L", (64, 48), 9).save(tmp_path / "deep" / "2.png")
    status, text, found = check(path)
    assert status == 1 and "1 of 3 images have 8 bits a channel and are taken as they are" in text
    assert found["pixel_range"][0] >= 466


def test_constant_deep_images_are_refused_and_left_out_of_the_sheet(noisy, check, tmp_path):
    path = deep_copy(noisy, tmp_path / "deep")
    for index in (1, 2, 3):
        (tmp_path / "deep" / f"{index}.png").write_bytes(png16(np.full((48, 64), 500)))
    status, text, found = check(path)
    assert status == 1 and "all pixels have the value 500" in text and found["pixel_range"] is None


def test_a_deep_set_for_testing_with_a_training_set_of_eight_bits(noisy, check, tmp_path):
    status, text, _ = check(noisy, "--val", deep_copy(noisy, tmp_path / "deep"))
    assert status == 1 and "3 images of more than 8 bits a channel, but INPUT.PIXEL_RANGE is empty" in text
    status, text, _ = check(noisy, "--val", tmp_path / "deep" / "set.json", "INPUT.PIXEL_RANGE", "[0, 9]")
    assert "PIXEL_RANGE is empty" not in text and "3 of 3 images have 8 bits" in text


@pytest.fixture
def settled(config, monkeypatch, caplog):
    """A function that checks a run's data as train_net.py does: settled(train, val, KEY=value) -> its config."""
    monkeypatch.setattr(logging.getLogger("fa_detectron"), "propagate", True)
    caplog.set_level(logging.INFO, "fa_detectron")

    def run(train, val="", training=True, **keys):
        cfg = config()
        for key, value in keys.items():
            cfg.INPUT[key] = value
        resolve_data_arguments(cfg, str(train), str(val))
        register_from_config(cfg)
        check_data(cfg, training=training)
        return cfg

    return run


def test_training_stores_the_range(noisy, settled, tmp_path, caplog):
    deep = deep_copy(noisy, tmp_path / "deep")
    assert settled(noisy, noisy).INPUT.PIXEL_RANGE == []
    assert settled(deep, deep).INPUT.PIXEL_RANGE == pytest.approx([466, 3781], abs=30)
    assert "become 0 to 255 (measured on 3 images)" in caplog.text
    assert settled(deep, deep, PIXEL_RANGE=[0, 4095]).INPUT.PIXEL_RANGE == [0, 4095]
    assert settled(noisy, deep, training=False, PIXEL_RANGE=[0, 4095]).INPUT.PIXEL_RANGE == [0, 4095]
    caplog.clear()
    assert settled(deep, noisy).INPUT.PIXEL_RANGE
    assert "custom_val: 3 of 3 images have 8 bits a channel" in caplog.text
    for training in (True, False):
        with pytest.raises(UserError, match=r"custom_val: 3 images of more than 8 bits .*PIXEL_RANGE is empty"):
            settled(noisy, deep, training=training)


def test_nan_is_told_before_training(noisy, settled, tmp_path, caplog):
    deep = deep_copy(noisy, tmp_path / "deep", "float TIFF")
    values = RNG.random((48, 64), dtype=np.float32)
    values[0] = np.nan
    (tmp_path / "deep" / "2.tif").write_bytes(tiff(values))
    settled(deep)
    assert "1 images with pixels that are NaN (they become 0) or infinite" in caplog.text


@pytest.fixture
def sideways(coco, tmp_path) -> str:
    """A COCO set of JPEG files of orientation 6, annotated at the size 64x48 that they are stored in."""
    path = coco()
    content = json.loads(Path(path).read_text())
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in content["images"]:
        image["file_name"] = f"{image['id']}.jpg"
        Image.fromarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(
            tmp_path / "images" / image["file_name"], exif=exif
        )
    Path(path).write_text(json.dumps(content))
    return path


def test_images_annotated_as_stored_are_told_with_the_option(sideways, settled, check):
    message = (
        r"3 images annotated at their stored size.*\n.*1\.jpg: annotated as 64x48, as it is stored; its EXIF "
        r"orientation 6 turns it(.*\n)*.*INPUT\.EXIF_ORIENTATION False"
    )
    with pytest.raises(UserError, match=message):
        settled(sideways)
    status, text, _ = check(sideways)
    assert status == 1 and "3 images annotated at their stored size" in text and "INPUT.EXIF_ORIENTATION False" in text


def test_images_read_as_stored(sideways, settled, check):
    assert not settled(sideways, EXIF_ORIENTATION=False).INPUT.EXIF_ORIENTATION
    status, text, _ = check(sideways, "INPUT.EXIF_ORIENTATION", "False")
    assert status == 0, text


def test_the_other_way_round(sideways, settled):
    content = json.loads(Path(sideways).read_text())
    for image in content["images"]:
        image["width"], image["height"] = 48, 64
    content["annotations"] = content["annotations"][:1]
    Path(sideways).write_text(json.dumps(content))
    settled(sideways)
    with pytest.raises(UserError, match=r"3 images of another size.*\n.*1\.jpg: is 64x48, annotated as 48x64"):
        settled(sideways, EXIF_ORIENTATION=False)


def test_sizes_of_yolo_and_voc_sets_follow_the_option(yolo, voc, settled):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = Path(voc({"a": voc_object("ant", (1, 1, 40, 40))}, {"train": ["a"]}))
    Image.new("RGB", (64, 48)).save(folder / "JPEGImages" / "a.jpg", exif=exif)
    xml = folder / "Annotations" / "a.xml"
    xml.write_text(re.sub("<size>.*</size>", "", xml.read_text()))
    for upright in (True, False):
        settled(f"{folder}:train", EXIF_ORIENTATION=upright)
        (record,) = DatasetCatalog.get("custom_train")
        assert (record["width"], record["height"]) == ((48, 64) if upright else (64, 48))
    path = yolo({"train": {"a": "0 0.5 0.5 0.25 0.5\n"}})
    image = Path(path).parent / "images" / "train" / "a.png"
    Image.new("RGB", (64, 48)).save(image, exif=exif)
    sizes = {}
    for upright in (True, False):
        settled(path, EXIF_ORIENTATION=upright)
        (record,) = DatasetCatalog.get("custom_train")
        sizes[upright] = (record["width"], record["height"], record["annotations"][0]["bbox"])
    assert sizes == {True: (48, 64, [18, 16, 30, 48]), False: (64, 48, [24, 12, 40, 36])}
