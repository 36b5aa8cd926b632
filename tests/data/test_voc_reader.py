"""Pascal VOC folders: corner convention, difficult objects, and refusal of what is broken or unsafe."""

from collections import Counter
from pathlib import Path

import pytest

from fa_detectron.data.readers.files import parse_xml
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object
from tests.data.reading import clean, read


def test_corners_count_from_one_and_include_the_last_pixel(voc):
    folder = voc({"a": voc_object("cat", (1, 1, 64, 48)) + voc_object("ant", (5, 6, 5, 6))}, {"train": ["a"]})
    data = read(folder, "train")
    assert [a.box for a in data.images[0].annotations] == [(0, 0, 64, 48), (4, 5, 5, 6)]
    assert data.classes == ("ant", "cat")
    (found,) = clean(data)
    assert "1 boxes with a side of a pixel or less" in found and "1x1 pixels" in found


def test_difficult_objects_are_crowd(voc):
    folder = voc({"a": voc_object("cat", (1, 1, 9, 9), difficult=1)}, {"train": ["a"]})
    assert read(folder, "train").images[0].annotations[0].iscrowd == 1


def test_per_class_lists_and_other_image_types_are_read(voc):
    folder = voc({"a": "", "b": ""}, {"cat_train": ["a  1", "b -1"]})
    (Path(folder) / "JPEGImages" / "b.jpg").rename(Path(folder) / "JPEGImages" / "b.png")
    images = read(folder, "cat_train").images
    assert [Path(image.file_name).name for image in images] == ["a.jpg", "b.png"]


def test_a_missing_size_is_taken_from_the_image(voc):
    folder = voc({"a": ""}, {"train": ["a"]})
    (Path(folder) / "Annotations" / "a.xml").write_text("<annotation/>")
    image = read(folder, "train").images[0]
    assert (image.width, image.height) == (64, 48)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "DTD"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "DTD"),
        ("<!DOCTYPE annotation><annotation/>", "DTD"),
        ("<annotation>", "not valid XML"),
        ("", "not valid XML"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "not valid XML"),
        ("<folder/>", "must be <annotation>, is <folder>"),
        ("<annotation><size><width>6x</width><height>4</height></size></annotation>", "size must be two whole numbers"),
        ("<annotation><object><bndbox/></object></annotation>", "object 0 has no name"),
    ],
)
def test_bad_xml_is_refused_with_its_file(voc, text, message):
    folder = voc({"a": "", "b": ""}, {"train": ["a", "b"]})
    (Path(folder) / "Annotations" / "b.xml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read(folder, "train")
    assert "b.xml" in str(caught.value) and "1 annotation files" in str(caught.value)


def test_entities_never_grow(tmp_path):
    nested = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    path = tmp_path / "bomb.xml"
    path.write_text(f'<!DOCTYPE a [<!ENTITY e0 "x">{nested}]><annotation>&e9;</annotation>')
    with pytest.raises(UserError, match="DTD"):
        parse_xml(str(path))


def test_nesting_without_end_is_survived(tmp_path):
    path = tmp_path / "deep.xml"
    path.write_text("<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>")
    tree = parse_xml(str(path))
    assert tree.find("size") is None
    del tree


def test_missing_files_are_named(voc):
    folder = voc({"a": ""}, {"train": ["a", "gone"], "val": []})
    with pytest.raises(UserError, match=r"gone\.xml: cannot be read"):
        read(folder, "train")
    with pytest.raises(UserError, match="lists no image"):
        read(folder, "val")
    with pytest.raises(UserError, match="Splits in this folder: train, val"):
        read(folder, "test")


@pytest.mark.parametrize(("ids", "message"), [(["a", "a"], "more than once"), (["../a"], "leave the folder")])
def test_bad_ids_are_refused(voc, ids, message):
    with pytest.raises(UserError, match=message):
        read(voc({"a": ""}, {"train": ids}), "train")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (("x", 1, 9, 9), "not four numbers"),
        (("nan", 1, 9, 9), "not finite"),
        (("1e999", 1, 9, 9), "not finite"),
        (("", 1, 9, 9), "not four numbers"),
        ((20, 1, 9, 9), "inverted"),
    ],
)
def test_bad_corners_reach_the_box_check(voc, box, message):
    data = read(voc({"a": voc_object("cat", box)}, {"train": ["a"]}), "train")
    with pytest.raises(UserError, match=rf"1 bad boxes \([^)]*\):\n.*annotation 0 in .*a\.xml.*{message}"):
        clean(data)


def test_a_set_of_three_splits_as_labelimg_writes_it(voc):
    """Blood cells: the classes in any order, a path of the annotator's machine, one box of a single pixel."""
    cells = {"white": ("WBC", (26, 17, 49, 37)), "red": ("RBC", (7, 33, 18, 43)), "dot": ("Platelets", (40, 2, 40, 2))}
    objects = {name: voc_object(label, box) for name, (label, box) in cells.items()}
    images = {f"b_{n}": objects["red"] * n + objects["white"] + objects["dot"] * (n == 3) for n in range(1, 6)}
    folder = voc(images, {"train": ["b_1", "b_3"], "val": ["b_2"], "test": ["b_4", "b_5"]})
    for path in (Path(folder) / "Annotations").iterdir():
        head = "<folder>JPEGImages</folder><path>/home/pi/set/x.jpg</path><source><database>Unknown</database></source>"
        path.write_text(path.read_text().replace("<annotation>", f'<annotation verified="no">{head}'))
    expected = {
        "train": {"RBC": 4, "WBC": 2, "Platelets": 1},
        "val": {"RBC": 2, "WBC": 1},
        "test": {"RBC": 9, "WBC": 2},
    }
    for split, counts in expected.items():
        data = read(folder, split)
        found = clean(data)
        assert Counter(a.label for image in data.images for a in image.annotations) == counts
        assert [("1 boxes with a side of a pixel or less" in text) for text in found] == [True] * (split == "train")


def test_links_out_of_the_set_are_refused(voc, tmp_path):
    folder = Path(voc({"a": "", "b": ""}, {"train": ["a", "b"]}))
    image = folder / "JPEGImages" / "a.jpg"
    image.rename(tmp_path / "stored.jpg")
    image.symlink_to(tmp_path / "stored.jpg")
    with pytest.raises(UserError, match=rf"1 images that a link takes out of {folder}:\n  a\.jpg"):
        read(str(folder), "train")
    image.unlink()
    image.symlink_to("b.jpg")  # a link inside
    assert len(read(str(folder), "train").images) == 2
    (folder / "Annotations" / "a.xml").unlink()
    (folder / "Annotations" / "a.xml").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"1 annotation files that a link takes out of .*\n  a\.xml"):
        read(str(folder), "train")
    (tmp_path / "a.xml").write_text("<annotation/>")
    (folder / "Annotations" / "a.xml").unlink()
    (folder / "Annotations" / "a.xml").symlink_to(tmp_path / "a.xml")
    assert len(read(str(folder), "train", follow_links=True).images) == 2


def test_a_size_beyond_any_image_is_refused(voc):
    folder = voc({"a": ""}, {"train": ["a"]})
    size = f"<annotation><size><width>{10**40}</width><height>4</height></size></annotation>"
    (Path(folder) / "Annotations" / "a.xml").write_text(size)
    with pytest.raises(UserError, match="size is more than 1000000 pixels"):
        read(folder, "train")


@pytest.mark.parametrize("called", ["val", "valid", "validate", "validation"])
def test_the_validation_split_has_many_names(voc, called):
    folder = voc({"a": ""}, {"train": ["a"], called: ["a"]})
    for wanted in ("val", "valid", "validate", "validation"):
        assert [image.image_id for image in read(f"{folder}:{wanted}").images] == ["a"]
