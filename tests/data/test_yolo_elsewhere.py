"""YOLO sets described for another machine, under another name, or with names in another case."""

import shutil

import pytest

from fa_detectron.data.findings import Findings
from fa_detectron.data.sources.find import parse_source
from fa_detectron.errors import UserError
from tests.data.reading import read
from tests.data.test_yolo_places import BOX, GOOD, boxes, describe, notes, save


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.png", "labels/a.TXT"),
        ("images/a.png", "images/a.TXT"),
        ("a.png", "a.Txt"),
        ("Images/a.png", "Labels/a.txt"),
        ("IMAGES/A.PNG", "labels/a.txt"),
        ("Images/Train/a.png", "Labels/Train/a.txt"),
        ("Train/Images/a.png", "Train/Labels/a.txt"),
    ],
)
def test_case_does_not_matter(tmp_path, image, label):
    path = save(tmp_path / image, tmp_path / label)
    (tmp_path / "Classes.txt").write_text("ant\ncat\n")
    assert boxes(read(str(tmp_path))) == {path.name: GOOD}
    shutil.move(tmp_path / image, path.with_name("z.png"))
    save(tmp_path / image.replace("a.", "b.").replace("A.", "b."), tmp_path / label.replace("a.", "b."))
    assert "label files without an image" in notes(str(tmp_path)), "nor for those without an image"


def test_the_same_case_comes_first(tmp_path):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    (tmp_path / "labels/a.TXT").write_text("")
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Labels/a.txt").write_text("")
    (tmp_path / "classes.txt").write_text("ant\ncat\n")
    assert boxes(read(str(tmp_path))) == {"a.png": GOOD}


def test_a_description_may_have_any_name(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / f"images/{split}/{split}.png", tmp_path / f"labels/{split}/{split}.txt")
    describe(tmp_path / "coco8.yaml", "path: coco8\ntrain: images/train\nval: images/val")
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    assert boxes(read(str(tmp_path))) == {"train.png": GOOD}
    assert boxes(read(f"{tmp_path}:val")) == {"val.png": GOOD}
    describe(tmp_path / "other.yml", "val: images/val")
    with pytest.raises(UserError, match=r"several files describe a YOLO set.*coco8\.yaml, .*other\.yml"):
        parse_source(str(tmp_path), "train")
    describe(tmp_path / "data.yaml", "train: images/val")
    assert boxes(read(str(tmp_path))) == {"val.png": GOOD}, "the usual name comes first"


@pytest.mark.parametrize(
    "text",
    [
        "path: /content/yp\ntrain: /content/yp/images/train\nval: /content/yp/images/val",
        "path: C:/Users/x/set\ntrain: images\\train\nval: images\\val",
        "path: /content/yp\ntrain: [images/train]\nval: [images/val]",
        "path: /content/yp\ntrain: [/content/yp/images/train]\nval: [/content/yp/images/val]",
        "path: /content/yp\ntrain: ../images/train\nval: ../images/val",
    ],
)
def test_paths_of_another_machine_are_resolved_in_the_sets_folder(tmp_path, text):
    for split in ("train", "val"):
        save(tmp_path / f"images/{split}/{split}.png", tmp_path / f"labels/{split}/{split}.txt")
    path = describe(tmp_path / "data.yaml", text)
    assert boxes(read(path)) == {"train.png": GOOD}
    assert boxes(read(f"{path}:val")) == {"val.png": GOOD}
    assert f"so {tmp_path} is read" in notes(path)


def test_lists_of_folders_that_lead_to_one_place_are_refused(tmp_path):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    with pytest.raises(UserError, match="'train' and 'val' do not exist, or mean the same folder"):
        read(describe(tmp_path / "data.yaml", "train: [/a/train/images]\nval: [/a/val/images]"))


def test_labels_that_are_xml_files_are_named(tmp_path):
    save(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.xml").write_text("<annotation/>")
    path = describe(tmp_path / "data.yaml", "train: images")
    with pytest.raises(UserError, match=r"there is .*labels/a\.xml instead, so name the folder of the XML files"):
        read(path)


@pytest.mark.parametrize("suffix", [".pgm", ".ppm", ".pnm", ".jfif", ".gif", ".mpo"])
def test_image_suffixes(tmp_path, suffix):
    image = save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    image.rename(image.with_suffix(suffix))  # the content tells the format
    (tmp_path / "classes.txt").write_text("ant\ncat\n")
    assert boxes(read(str(tmp_path))) == {f"a{suffix}": GOOD}


@pytest.mark.parametrize("blank", ["", " ", "\n\n", "\ufeff\n", " \t\r\n"])
def test_a_label_file_of_blanks_is_empty(tmp_path, blank):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    save(tmp_path / "images/b.png", tmp_path / "labels/b.txt", blank)
    assert "1 label files are empty: their images have no object" in notes(str(tmp_path))


def test_track_ids_that_could_be_corners_get_advice(tmp_path):
    rows = "".join(f"{BOX.strip()} 0.9 {track}\n" for track in (0, 1, 2))
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt", rows)
    read(str(tmp_path), findings=(found := Findings()))
    (refused,) = [str(finding) for finding in found.all if "could be polygons" in str(finding)]
    assert "a box, a confidence and a track id" in refused and "delete the last two numbers" in refused
