"""Which format a file or a folder is in, told by the content, and which of its splits is meant."""

import json
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from fa_detectron.data.readers import _READERS
from fa_detectron.data.sources.find import parse_source, splits_of
from fa_detectron.data.sources.formats import FORMATS
from fa_detectron.data.sources.source import NoSuchSplit
from fa_detectron.errors import UserError
from tests.data.exports import boxes, cvat_xml, image, label_studio_task, labelme_file, write
from tests.data.reading import read

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 15]}],
    "categories": [{"id": 1, "name": "cat"}],
}
VOC = (
    "<annotation><filename>a.png</filename><size><width>64</width><height>48</height></size><object><name>cat</name>"
    "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object></annotation>"
)
CSV = "filename,xmin,ymin,xmax,ymax,class\na.png,10,5,30,20,cat\n"
CREATEML = [{"image": "a.png", "annotations": []}]
VIA = {"a.png12": {"filename": "a.png", "size": 12, "regions": [], "file_attributes": {}}}
FILES = {
    "coco": COCO,
    "createml": CREATEML,
    "csv": CSV,
    "cvat": cvat_xml('<image id="0" name="a.png" width="64" height="48"/>'),
    "label_studio": [label_studio_task(1, "a.png")],
    "labelme": labelme_file("a.png"),
    "via": VIA,
}


def source(text, split="train"):
    found = parse_source(str(text), split)
    return found.format, Path(found.path).name, found.split


def test_every_format_has_a_reader():
    assert FORMATS.keys() == _READERS.keys()


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("name", ["set.json", "set.xml", "set.txt", "set"])
def test_the_content_tells_the_format_and_not_the_suffix(tmp_path, key, name):
    assert source(write(tmp_path / name, FILES[key]))[0] == key


def test_the_beginning_of_a_file_tells_its_format(tmp_path):
    large = json.dumps({"info": {"description": "x" * 100}, **COCO, "more": ["{", 1.5, '\\"'] * 10_000})
    assert source(write(tmp_path / "a.json", "\ufeff" + large))[0] == "coco"
    (tmp_path / "b.json").write_bytes(json.dumps(VIA).encode("utf-16"))
    assert source(tmp_path / "b.json")[0] == "via"
    (tmp_path / "c.xml").write_bytes(FILES["cvat"].replace("utf-8", "utf-16").encode("utf-16"))
    assert source(tmp_path / "c.xml")[0] == "cvat"


@pytest.mark.parametrize("key", [key for key in FILES if key != "labelme"])
def test_a_folder_with_one_file_of_annotations(tmp_path, key):
    image(tmp_path / "images" / "a.png")
    write(tmp_path / "annotations" / "set.json", FILES[key])
    write(tmp_path / "package.json", {"name": "x"})
    assert source(tmp_path) == (key, "set.json", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("_annotations.coco.json", COCO),
        (".annotations.coco.json", COCO),  # Roboflow's, of some versions
        ("_annotations.csv", CSV),
        ("_annotations.createml.json", CREATEML),
        ("a.json", FILES["labelme"]),
        ("a.xml", VOC),
    ],
)
@pytest.mark.parametrize("val", ["valid", "val", "validation", "Val"])
def test_a_folder_with_a_folder_a_split(tmp_path, name, content, val):
    for split in ("train", val):
        image(tmp_path / split / "a.png")
        write(tmp_path / split / name, content)
    for text, split, folder in (
        (str(tmp_path), "train", "train"),
        (str(tmp_path), "val", val),
        (f"{tmp_path}:val", "train", val),
        (f"{tmp_path}:train", "val", "train"),
    ):
        assert str(parse_source(text, split)).startswith(str(tmp_path / folder))
    assert list(splits_of(str(tmp_path))) == ["train", "val"]
    with pytest.raises(NoSuchSplit, match="has no split 'test'; it has"):
        parse_source(str(tmp_path), "test")


def test_the_names_of_files_tell_the_split(tmp_path):
    for name in ("instances_train2017", "captions_train2017", "instances_val2017"):
        write(tmp_path / "annotations" / f"{name}.json", COCO)
    assert source(tmp_path)[1] == "instances_train2017.json"
    assert source(tmp_path, "val")[1] == "instances_val2017.json"
    assert list(splits_of(str(tmp_path))) == ["train", "val"]
    with pytest.raises(NoSuchSplit, match="has no split 'test'; its annotations are"):
        parse_source(f"{tmp_path}:test", "train")


def test_a_set_of_another_split_alone_is_not_taken(tmp_path):
    write(tmp_path / "train.xml", FILES["cvat"])
    assert source(tmp_path)[1] == "train.xml"
    with pytest.raises(NoSuchSplit, match=r"no split 'val'; its annotations are train\.xml"):
        parse_source(str(tmp_path), "val")
    with pytest.raises(NoSuchSplit, match="CVAT XML has no splits"):
        parse_source(f"{tmp_path / 'train.xml'}:val", "train")


def test_several_files_that_could_be_meant_are_refused(tmp_path):
    for name in ("first.json", "second.json"):
        write(tmp_path / name, COCO)
    with pytest.raises(UserError, match=r"several files of annotations, name one of them: .*first\.json.*second\.json"):
        parse_source(str(tmp_path), "train")


def test_a_folder_of_several_sets_is_refused_with_their_names(tmp_path):
    write(tmp_path / "first" / "set.json", COCO)
    write(tmp_path / "second" / "a.xml", VOC)
    with pytest.raises(UserError, match=r"(?s)name one of those below it.*first \(COCO JSON\).*second \(Pascal VOC\)"):
        parse_source(str(tmp_path), "train")


def test_a_folder_with_files_of_two_formats_is_not_told_to_name_itself(tmp_path):
    write(tmp_path / "a.xml", VOC)
    write(tmp_path / "a.json", FILES["labelme"])
    with pytest.raises(UserError, match=r"(?s)holds annotations in several formats.*\(LabelMe JSON, Pascal VOC"):
        parse_source(str(tmp_path), "train")


@pytest.mark.parametrize("encoding", ["gb2312", "shift_jis", "latin-1", "utf-16"])
@pytest.mark.parametrize(("key", "text"), [("cvat", FILES["cvat"]), ("voc", VOC)])
def test_xml_in_any_encoding_that_it_declares(tmp_path, key, text, encoding):
    image(tmp_path / "a.png")
    body = text.partition("?>")[2] or text
    # "utf-16" is what .NET declares in files that it writes in UTF-8.
    content = f'<?xml version="1.0" encoding="{encoding}"?>\n<!-- {"é" if encoding == "latin-1" else "人"} -->{body}'
    (tmp_path / "a.xml").write_bytes(content.encode("utf-8" if encoding == "utf-16" else encoding))
    data = read(str(tmp_path))
    assert data.format == FORMATS[key].title and len(data.images) == 1


@pytest.mark.parametrize("encoding", ["gb2312", "utf-16"])
def test_cvat_subsets_in_any_encoding(tmp_path, encoding):
    body = '<image id="0" name="a.png" subset="训练"/><image id="1" name="b.png" subset="val"/>'
    content = f'<?xml version="1.0" encoding="{encoding}"?><annotations>{body}</annotations>'
    path = tmp_path / "a.xml"
    path.write_bytes(content.encode("utf-8" if encoding == "utf-16" else encoding))
    assert source(f"{path}:训练")[2] == "训练"


def test_voc_files_with_a_polygon_beside_the_box(tmp_path):
    image(tmp_path / "a.png")
    polygon = "<polygon><x1>10</x1><y1>5</y1><x2>30</x2><y2>20</y2></polygon>"
    write(tmp_path / "a.xml", VOC.replace("<bndbox>", f"{polygon}<bndbox>"))
    data = read(str(tmp_path))
    assert data.format == "Pascal VOC" and boxes(data) == {"a.png": [("cat", (10, 5, 30, 20))]}


def test_many_files_are_told_by_a_few(tmp_path, monkeypatch):
    for number in range(60):
        write(tmp_path / f"{number}.json", labelme_file(f"{number}.png"))
    from fa_detectron.data.sources import folders as annotation_files

    looked = []
    monkeypatch.setattr(
        annotation_files, "glance", lambda path, real=annotation_files.glance: looked.append(path) or real(path)
    )
    assert source(tmp_path)[0] == "labelme" and len(looked) <= 3 * annotation_files._MANY


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}], "list of detections"),
        ("a.json", {"project": {}, "config": {}, "metadata": {}, "view": {}}, "VIA 3"),
        ("a.zip", "PK", "archive; unpack it"),
        ("a.tfrecord", "", "TFRecord files"),
        ("a.xml", VOC, "of one image; name the folder"),
    ],
)
def test_what_is_no_set_of_boxes_is_refused_by_name(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        parse_source(str(tmp_path) if name == "a.tfrecord" else str(tmp_path / name), "train")


def test_masks_alone_are_refused_by_name(tmp_path):
    image(tmp_path / "masks" / "a.png")
    with pytest.raises(UserError, match="images alone"):
        parse_source(str(tmp_path), "train")


def test_unknown_content_is_answered_with_what_was_looked_for_and_a_conversion(tmp_path):
    write(tmp_path / "a b" / "data.json", {"items": []})
    with pytest.raises(UserError) as caught:
        parse_source(str(tmp_path / "a b"), "train")
    text = str(caught.value)
    assert all(known.title in text and known.looked_for in text for known in FORMATS.values())
    assert f"datum convert -i '{tmp_path / 'a b'}' -f coco_instances -o converted -- --save-media" in text


def test_links_out_of_the_folder_are_not_looked_at(tmp_path):
    write(tmp_path / "elsewhere" / "a.json", COCO)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.json").symlink_to(tmp_path / "elsewhere" / "a.json")
    with pytest.raises(UserError, match="no annotations in a format that is known"):
        parse_source(str(tmp_path / "set"), "train")


def test_the_folder_that_datumaro_writes(tmp_path):
    image(tmp_path / "images" / "train" / "a.png")
    write(tmp_path / "annotations" / "instances_train.json", COCO)
    data = read(str(tmp_path))
    assert data.format == "COCO JSON" and data.images[0].file_name == str(tmp_path / "images" / "train" / "a.png")
