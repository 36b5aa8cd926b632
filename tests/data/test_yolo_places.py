"""YOLO sets as tools lay them out and people move them: splits, names, lists, labels elsewhere, links."""

import os
from pathlib import Path

import pytest
from PIL import Image

from fa_detectron.data.findings import Findings
from fa_detectron.data.sources.find import parse_source, validation_split
from fa_detectron.data.sources.splits import split_names
from fa_detectron.errors import UserError
from tests.data.reading import read

BOX = "1 0.5 0.5 0.25 0.5\n"


def save(path: Path, labels: Path | None = None, rows: str = BOX) -> Path:
    """An image, and its label file; returns the image's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), (len(path.name) % 255, 90, 90)).save(path)
    if labels:
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text(rows)
    return path


def describe(path: Path, text: str = "", names: str = "[ant, cat]") -> str:
    path.write_text(f"{text}\nnames: {names}\n")
    return str(path)


def boxes(data):
    return {Path(i.file_name).name: [(a.label, a.box) for a in i.annotations] for i in data.images}


def notes(text: str, **options) -> str:
    read(text, findings=(found := Findings(strict=True)), **options)
    return "\n".join(str(finding) for finding in found.all)


PIXELS = (24, 12, 40, 36)
GOOD = [("cat", PIXELS)]


@pytest.mark.parametrize("wanted", ["val", "valid", "validate", "validation"])
@pytest.mark.parametrize("called", ["val", "valid", "validate", "validation"])
def test_the_validation_split_has_many_names(tmp_path, wanted, called):
    for place in ("images/{}", "{}/images"):
        root = tmp_path / place.format("by")
        folder = place.format(called)
        save(root / folder / "a.png", root / folder.replace("images", "labels") / "a.txt")
        (root / "classes.txt").write_text("ant\ncat\n")
        assert boxes(read(f"{root}:{wanted}")) == {"a.png": GOOD}
        path = describe(root / "data.yaml", f"{called}: {folder}")
        assert boxes(read(f"{path}:{wanted}")) == {"a.png": GOOD}
        path = describe(root / "data.yaml", f"val: ../{place.format(wanted)}")  # the folder has another name
        assert boxes(read(f"{path}:{wanted}")) == {"a.png": GOOD}


def test_the_given_name_comes_first(tmp_path):
    for split in ("val", "valid"):
        save(tmp_path / split / "images" / f"{split}.png", tmp_path / split / "labels" / f"{split}.txt")
    assert list(boxes(read(f"{tmp_path}:valid"))) == ["valid.png"]
    assert list(boxes(read(f"{tmp_path}:val"))) == ["val.png"]
    assert split_names("test") == ("test",) and "valid" in split_names("val")


def test_a_folder_of_splits_is_not_read_as_one(tmp_path):
    save(tmp_path / "images/train/a.png", tmp_path / "labels/train/a.txt")
    save(tmp_path / "images/test/b.png", tmp_path / "labels/test/b.txt")
    with pytest.raises(UserError, match=r"no split 'val'; it has train, test \(FOLDER:SPLIT\)"):
        parse_source(str(tmp_path), "val")


@pytest.mark.parametrize(
    ("image", "label", "text"),
    [
        ("a.png", "a.txt", "{root}"),
        ("train/a.png", "train/a.txt", "{root}:train"),
        ("train/a.png", "labels/train/a.txt", "{root}"),
        ("train/deep/a.png", "train/deep/a.txt", "{root}/data.yaml"),
        ("train/a.png", "train/labels/a.txt", "{root}/data.yaml"),
        ("images/a.png", "images/a.txt", "{root}"),
        ("Images/a.png", "labels/a.txt", "{root}/upper.yaml"),
        ("train/images/a.png", "train/labelTxt/a.txt", "{root}/data.yaml"),
        ("train/images/a.png", "train/labels/a.txt", "{root}/train"),
        ("images/train/a.PNG", "labels/train/a.txt", "{root}/list.yaml"),
    ],
)
def test_places_of_labels(tmp_path, image, label, text):
    save(tmp_path / image, tmp_path / label)
    if "data" in text or text.endswith("/train"):
        describe(tmp_path / "data.yaml", "train: train")
    if "upper" in text:
        describe(tmp_path / "upper.yaml", "train: Images")
    if "list" in text:
        describe(tmp_path / "list.yaml", "train: train.txt")
        (tmp_path / "train.txt").write_text("data/images/train/a.PNG\n")
    if not list(tmp_path.glob("data.yaml")):
        (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfant\r\ncat\r\n")
    assert boxes(read(text.format(root=tmp_path))) == {Path(image).name: GOOD}


@pytest.mark.parametrize(
    ("names", "file"),
    [
        ("{'0': ant, '1': cat}", None),
        ("{'1': cat, 0: ant}", None),
        ("classes.txt", "classes.txt"),
        ("data/obj.names", "obj.names"),
        ("'C:\\sets\\obj.names'", "obj.names"),
        ("", "classes.txt"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names(tmp_path, names, file, encoding):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    if file:
        (tmp_path / file).write_text("ant\ncat\n", encoding=encoding)
    assert boxes(read(describe(tmp_path / "data.yaml", "train: images", names))) == {"a.png": GOOD}
    assert read(str(tmp_path)).classes == ("ant", "cat")


def test_a_count_without_names(tmp_path):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: images\nnc: 3\n")
    assert read(str(tmp_path)).classes == ("0", "1", "2")
    assert "no 'names', so the 3 classes of 'nc' are called by their numbers" in notes(str(tmp_path))
    (tmp_path / "classes.txt").write_text("ant\ncat\n")
    assert read(str(tmp_path)).classes == ("ant", "cat")


def test_files_of_names_that_differ(tmp_path):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    (tmp_path / "classes.txt").write_text("ant\ncat\n")
    (tmp_path / "labels/classes.txt").write_text("ant\ncat\n")
    assert read(str(tmp_path)).classes == ("ant", "cat")
    (tmp_path / "labels/classes.txt").write_text("cat\nant\n")
    with pytest.raises(UserError, match=r"classes.txt and .*labels/classes.txt differ"):
        read(str(tmp_path))


def test_names_in_another_encoding_are_refused(tmp_path):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")
    (tmp_path / "classes.txt").write_bytes("Ameise\nKäfer\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes.txt: the encoding is neither UTF-8 nor UTF-16"):
        read(str(tmp_path))


def test_darknet_and_cvat(tmp_path):
    for name in "ab":
        save(tmp_path / f"obj_train_data/{name}.png", tmp_path / f"obj_train_data/{name}.txt")
    (tmp_path / "obj.names").write_text("ant\ncat\n")
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbfdata\\obj_train_data\\a.png\r\n")
    (tmp_path / "test.txt").write_text("/build/darknet/x64/obj_train_data/b.png\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/test.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(text)
    for path in (tmp_path, tmp_path / "obj.data"):
        assert boxes(read(str(path))) == {"a.png": GOOD}
        assert boxes(read(f"{path}:val")) == {"b.png": GOOD}
    assert "1 images found by their file name only" in notes(f"{tmp_path}:valid")
    assert "data/train.txt: " in notes(str(tmp_path))
    (tmp_path / "obj.data").unlink()
    assert boxes(read(str(tmp_path))) == {"a.png": GOOD}, "lists alone"


def test_another_machines_paths(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / "images" / split / f"{split}.png", tmp_path / "labels" / split / f"{split}.txt")
    path = describe(tmp_path / "data.yaml", "path: /content/set\ntrain: images/train\nval: images/val")
    assert boxes(read(path)) == {"train.png": GOOD}
    assert f"no folder /content/set (key 'path'), so {tmp_path} is read" in notes(path)
    path = describe(tmp_path / "data.yaml", "train: /content/set/images/train\nval: 'C:\\set\\images\\val'")
    assert boxes(read(f"{path}:val")) == {"val.png": GOOD}
    assert f"1 entries that do not exist here, and what was used instead:\n  /content/set/images/train: {tmp_path}" in (
        notes(path)
    )
    path = describe(tmp_path / "data.yaml", "train: /a/train/images\nval: /a/val/images")
    with pytest.raises(UserError, match=r"'train' and 'val' do not exist, or mean the same folder .*/images"):
        read(path)
    path = describe(tmp_path / "data.yaml", "path: /content/set\ntrain: img")
    with pytest.raises(UserError, match=r"key 'path': no such folder: /content/set"):
        read(path)


def test_files_without_a_partner_are_counted(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    save(images / "a.png", labels / "a.txt")
    save(images / "empty.png", labels / "empty.txt", "")
    save(images / "none.png")
    save(images / "twice.png", labels / "twice.txt")
    save(images / "twice.jpg")
    save(images / "._a.png")  # macOS leaves such files, and they are no images
    (labels / "gone.txt").write_text(BOX)
    (labels / "classes.txt").write_text("ant\ncat\n")
    (labels / "README.txt").write_text("labelled in June\n")
    assert sorted(boxes(read(str(tmp_path)))) == ["a.png", "empty.png", "none.png", "twice.jpg", "twice.png"]
    text = notes(str(tmp_path))
    assert f"1 images without a label file, taken as images without objects:\n  {images}/none.png" in text
    assert "1 label files are empty: their images have no object" in text
    assert f"1 label files without an image (their boxes are left out):\n  {labels}/gone.txt" in text
    assert f"1 label files that several images share:\n  {labels}/twice.txt: 2 images" in text


def test_a_list_leaves_the_labels_of_the_other_images_alone(tmp_path):
    for name in "ab":
        save(tmp_path / f"images/{name}.png", tmp_path / f"labels/{name}.txt")
    (tmp_path / "train.txt").write_text("./images/a.png\n")
    assert "without an image" not in notes(describe(tmp_path / "data.yaml", "train: train.txt"))


@pytest.fixture
def linked(tmp_path):
    """A set whose images are a link to a folder of photographs: (data.yaml, that folder)."""
    photos, root = tmp_path / "photos", tmp_path / "set"
    for split in ("train", "val"):
        save(photos / split / f"{split}.png", root / "labels" / split / f"{split}.txt")
    (root / "images").symlink_to(photos)
    return describe(root / "data.yaml", "train: images/train\nval: images/val"), photos


def test_a_linked_folder_of_images(linked):
    path, photos = linked
    root = Path(path).parent
    with pytest.raises(UserError, match=r"'images/train' leads out of .*/set\. .*--images .*--follow-links"):
        read(path)
    for folder in (photos, root / "images", photos.parent):
        assert boxes(read(path, images_root=str(folder))) == {"train.png": GOOD}, folder
        assert boxes(read(f"{path}:val", images_root=str(folder))) == {"val.png": GOOD}, folder
    assert boxes(read(path, follow_links=True)) == {"train.png": GOOD}
    os.unlink(path)
    (root / "classes.txt").write_text("ant\ncat\n")
    assert boxes(read(f"{root}:val", images_root=str(photos))) == {"val.png": GOOD}
    (root / "images").unlink()
    assert boxes(read(f"{root}:val", images_root=str(photos))) == {"val.png": GOOD}, "no link at all"


def test_images_elsewhere_that_know_no_split(tmp_path):
    """Only those with a label of the split belong to it."""
    photos, root = tmp_path / "photos", tmp_path / "set"
    for split in ("train", "val"):
        save(photos / f"{split}.png", root / "labels" / split / f"{split}.txt")
    save(photos / "rest.png")
    path = describe(root / "data.yaml", "train: images/train\nval: images/val")
    assert boxes(read(path, images_root=str(photos))) == {"train.png": GOOD}
    assert boxes(read(f"{path}:val", images_root=str(photos))) == {"val.png": GOOD}
    assert f"2 images of {photos} have no label file of this split and are left out" in notes(
        path, images_root=str(photos)
    )


def test_the_root_may_be_named(tmp_path):
    save(tmp_path / "set/images/a.png", tmp_path / "set/labels/a.txt")
    path = describe(tmp_path / "data.yaml", "path: /nowhere\ntrain: images")
    for folder in ("set", "set/images"):
        assert boxes(read(path, images_root=str(tmp_path / folder))) == {"a.png": GOOD}
    with pytest.raises(UserError, match=r"--images \(DATASETS.IMAGES_ROOT\): no such folder"):
        read(path, images_root="/nowhere")


def test_links_within_the_set_are_followed_and_others_refused(tmp_path):
    root = tmp_path / "set"
    image = save(root / "stored/x.png")
    label = root / "labels/a.txt"
    save(root / "images/b.png", label)
    (root / "images/a.png").symlink_to(image)
    (root / "images/more").symlink_to(root / "images")  # a circle
    path = describe(root / "data.yaml", "train: images")
    (root / "images/none.png").symlink_to("none.png")
    with pytest.raises(UserError, match=r"1 images that do not exist:\n  .*none\.png"):
        read(path)
    (root / "images/none.png").unlink()
    assert sorted(boxes(read(path))) == ["a.png", "b.png"]
    image.rename(tmp_path / "outside.png")
    (root / "images/a.png").unlink()
    (root / "images/a.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(
        UserError, match=r"1 images that a link takes out of .*set:\n  .*images/a\.png\nFollow .*--follow"
    ):
        read(path)
    assert boxes(read(path, follow_links=True))["a.png"] == GOOD
    (root / "images/a.png").unlink()
    save(root / "images/a.png")
    label.unlink()
    (tmp_path / "a.txt").write_text(BOX)
    label.symlink_to(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"1 label files that a link takes out of .*set:\n  .*labels/a\.txt\nFollow"):
        read(path)
    assert boxes(read(path, follow_links=True))["a.png"] == GOOD
    (root / "images/far").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"images that a link takes out of .*set:\n  .*images/far"):
        read(path)


def test_linked_lists_and_entries_stay_inside(tmp_path):
    save(tmp_path / "set/images/a.png", tmp_path / "set/labels/a.txt")
    outside = save(tmp_path / "secret/x.png")
    (tmp_path / "set/list.txt").write_text(f"images/a.png\n{outside}\n../secret/x.png\n")
    with pytest.raises(UserError, match=r"images that do not exist:\n  .*set/x.png"):
        read(describe(tmp_path / "set/data.yaml", "train: list.txt"))
    with pytest.raises(UserError, match=r"'../secret' leads out of .*set"):
        read(describe(tmp_path / "set/data.yaml", "train: ../secret"))


def test_a_folder_that_may_not_be_listed(tmp_path, monkeypatch):
    save(tmp_path / "images/a.png", tmp_path / "labels/a.txt")

    def scandir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"images: cannot be read: Permission denied"):
        read(str(tmp_path))


def test_the_commands_follow_links(linked, check, tmp_path):
    pytest.importorskip("detectron2")
    from fa_detectron.apps.train import argument_parser
    from fa_detectron.engine import setup

    path, _ = linked
    assert "leads out of" in (text := check(path)[1]) and "--follow-links" in text
    assert "1 images, 2 classes, 1 boxes" in check(path, "--follow-links")[1]
    args = ["--config-file", str(Path(__file__).parents[2] / "configs/demo.yaml"), "--train", path, "--num-gpus", "0"]
    end = ["DATASETS.TEST", "()", "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.WEIGHTS", ""]
    with pytest.raises(UserError, match="--follow-links"):
        setup(argument_parser().parse_args([*args, *end]))
    for words in (["--follow-links", *end], [*end, "DATASETS.FOLLOW_LINKS", "True"]):
        cfg = setup(argument_parser().parse_args([*args, *words]))
        assert cfg.DATASETS.FOLLOW_LINKS and cfg.DATASETS.CLASS_NAMES == ("ant", "cat")


def test_a_sets_own_validation_split_has_many_names(tmp_path):
    for split in ("train", "valid"):
        save(tmp_path / split / "images/a.png", tmp_path / split / "labels/a.txt")
    source = parse_source(str(tmp_path), "train")
    assert boxes(read(str(validation_split(str(source))))) == {"a.png": [("1", PIXELS)]}
    assert validation_split(str(source._replace(split="valid"))) is None
    for text, found in (("valid: valid/images", True), ("test: valid/images", False)):
        path = describe(tmp_path / "data.yaml", f"train: train/images\n{text}")
        assert (validation_split(path) is not None) == found
    (tmp_path / "obj.data").write_text("train = train/images\nvalid = valid/images\nnames = none\n")
    assert validation_split(str(tmp_path / "obj.data"))
