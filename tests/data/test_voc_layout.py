"""Where Pascal VOC sets have their splits: lists of ids in several places, folders of XML files."""

from pathlib import Path

import pytest
from PIL import Image

from fa_detectron.data.sources.find import validation_split
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object
from tests.data.reading import read

CAT = voc_object("cat", (5, 5, 24, 14))


@pytest.mark.parametrize("place", ["ImageSets", "."])
def test_lists_outside_main_are_splits(voc, place):
    folder = Path(voc({"my cat": CAT, "b": CAT, "c": CAT, "d": CAT}, {}))
    (folder / "ImageSets" / "Main").rmdir()
    if place == ".":
        (folder / "ImageSets").rmdir()
    (folder / place / "train.txt").write_text("b.jpg\nmy cat\nJPEGImages/c.jpg\n")
    assert validation_split(str(folder)) is None
    (folder / place / "val.txt").write_text("d 1\n")
    ids = {split: [image.image_id for image in read(f"{folder}:{split}").images] for split in ("train", "valid")}
    assert ids == {"train": ["b", "my cat", "c"], "valid": ["d"]}
    assert str(validation_split(str(folder))) == f"{folder}:val"
    assert [image.image_id for image in read(str(folder)).images] == ["b", "my cat", "c"]
    (folder / place / "val.txt").unlink()
    with pytest.raises(UserError, match="val"):
        read(str(folder), "val")  # and not all XML files


@pytest.mark.parametrize("xml", ["annotations", "labels"])
def test_folders_of_splits_below_the_annotations(tmp_path, xml):
    for split in ("train", "val"):
        for folder in (f"{xml}/{split}", f"images/{split}"):
            (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (64, 48), (len(split), 9, 9)).save(tmp_path / "images" / split / "a.png")
        (tmp_path / xml / split / "a.xml").write_text(f"<annotation>{voc_object(split, (5, 5, 24, 14))}</annotation>")
    for split in ("train", "val"):
        data = read(str(tmp_path), split)
        assert data.classes == (split,)
        assert data.images[0].file_name == str(tmp_path / "images" / split / "a.png")
    assert str(validation_split(str(tmp_path))) == f"{tmp_path}:val"
    with pytest.raises(UserError, match="no split 'test'; it has train, val"):
        read(f"{tmp_path}:test")
