"""What a run or a check reads of a set is read once: tables, XML files, headers and pixels."""

import pytest

pytest.importorskip("detectron2")

from PIL import Image

from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
from fa_detectron.data.checks import images as image_checks
from fa_detectron.data.images import file as image_file
from fa_detectron.data.images.file import read_header
from fa_detectron.data.readers import csv_columns, voc_layout
from fa_detectron.data.records import ReadOptions
from tests.data.conftest import voc_object
from tests.data.exports import image, write
from tests.data.reading import read


@pytest.fixture
def calls(monkeypatch):
    """A function that counts the calls of a module's function: the list that it returns has their first arguments."""

    def count(module, name):
        found, real = [], getattr(module, name)
        monkeypatch.setattr(module, name, lambda first, *rest: found.append(first) or real(first, *rest))
        return found

    return count


def test_the_header_of_an_image_is_read_once_in_a_run(yolo, config):
    path = yolo({"train": {"a": "0 0.5 0.5 0.9 0.9", "b": "1 0.5 0.5 0.9 0.9"}, "val": {"c": "0 0.5 0.5 0.5 0.5"}})
    image_file._read_header.cache_clear()
    cfg = config()
    resolve_data_arguments(cfg, path)
    register_from_config(cfg)
    check_data(cfg, training=True)
    assert image_file._read_header.cache_info().misses == 3


def test_the_header_of_a_file_that_has_changed_is_read_anew(tmp_path):
    path = tmp_path / "a.png"
    image(path)
    assert read_header(path).stored == (64, 48)
    Image.new("RGB", (640, 480)).save(path)
    assert read_header(path).stored == (640, 480)


@pytest.mark.parametrize("split", [False, True])
def test_a_table_is_read_once_more_only_for_its_splits(tmp_path, calls, split):
    for name in "ab":
        image(tmp_path / f"{name}.png")
    column, rows = (",split" if split else ""), ["a.png,10,5,30,20,cat", "b.png,10,5,30,20,cat"]
    rows = [row + (f",{name}" if split else "") for row, name in zip(rows, ("train", "val"))]
    path = write(tmp_path / "boxes.csv", "\n".join([f"filename,xmin,ymin,xmax,ymax,class{column}", *rows]))
    found = calls(csv_columns, "read_text")
    assert len(read(path).images) == (1 if split else 2)
    assert len(found) == 1 + split


def test_the_first_pixel_of_a_set_is_looked_for_once_for_all_splits(voc, calls):
    cat = voc_object("cat", (0, 0, 40, 40))
    folder = voc({"a": cat, "b": cat}, {"train": ["a"], "val": ["b"]})
    found = calls(voc_layout, "_minima")
    for split in ("train", "val"):
        (record,) = read(folder, split).images
        assert record.annotations[0].box == (0.0, 0.0, 40.0, 40.0)
    assert len(found) == 2
    voc({"a": voc_object("cat", (1, 1, 40, 40)), "b": voc_object("cat", (1, 1, 40, 40))}, {})
    assert read(folder, "train").images[0].annotations[0].box == (0.0, 0.0, 40.0, 40.0)


def test_a_clean_copy_reads_no_image_again(coco, check, calls, tmp_path):
    found = calls(image_checks, "_digest")
    check(coco(), "--write", tmp_path / "clean")
    assert (tmp_path / "clean" / "train").is_dir() and len(found) == len(set(found)) == 3


def test_the_folder_of_the_images_must_exist(tmp_path):
    from fa_detectron.errors import UserError

    assert ReadOptions().images_folder() == "" and ReadOptions(str(tmp_path)).images_folder() == str(tmp_path)
    with pytest.raises(UserError, match=r"--images .*no such folder: .*/none"):
        ReadOptions(str(tmp_path / "none")).images_folder()
