"""LabelMe: JSON files and the XML of its web tool."""

import pytest

pytest.importorskip("detectron2")

from fa_detectron.data.findings import NOTE, PROBLEM, Findings
from fa_detectron.errors import UserError
from tests.data.exports import boxes, image, labelme_file, write
from tests.data.reading import read


def test_shapes_count_with_the_box_around_them(tmp_path):
    image(tmp_path / "a.png")
    shapes = [
        ("cat", "rectangle", [[30, 20], [10, 5]]),  # drawn from the lower right corner
        ("dog", "polygon", [[1, 2], [9, 4], [5, 12.5]]),
        ("dog", "circle", [[30, 24], [33, 28]]),  # centre, a point on the edge
        {"label": "cat", "shape_type": "mask", "points": [[2, 3], [5, 6]], "mask": "iVBORw0KGgo="},
        ("nose", "point", [[3, 3]]),
        ("tail", "linestrip", [[3, 3], [5, 5]]),
    ]
    write(tmp_path / "a.json", labelme_file("a.png", *shapes))
    data = read(str(tmp_path), findings=(findings := Findings()))
    assert boxes(data) == {
        "a.png": [
            ("cat", (10, 5, 30, 20)),
            ("dog", (1, 2, 9, 12.5)),
            ("dog", (25, 19, 35, 29)),
            ("cat", (2, 3, 6, 7)),
        ]
    }
    assert data.classes == ("cat", "dog") and data.summary == "read as LabelMe JSON, 1 images, 2 classes"
    assert "1 linestrip, 1 point" in str(findings.all[0])


def test_shapes_of_a_group_are_one_object_and_difficult_ones_crowd(tmp_path):
    image(tmp_path / "a.png")
    parts = [
        {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [4, 4]], "group_id": 7},
        {"label": "dog", "shape_type": "rectangle", "points": [[1, 1], [4, 4]], "group_id": 7},
        {"label": "cat", "shape_type": "rectangle", "points": [[10, 2], [20, 9]], "group_id": 7},
        {"label": "cat", "shape_type": "rectangle", "points": [[10, 2], [20, 9]], "difficult": True},
    ]
    write(tmp_path / "a.json", labelme_file("a.png", *parts))
    data = read(str(tmp_path))
    assert boxes(data)["a.png"] == [("cat", (1, 1, 20, 9)), ("dog", (1, 1, 4, 4)), ("cat", (10, 2, 20, 9))]
    assert [a.iscrowd for a in data.images[0].annotations] == [0, 0, 1]


@pytest.mark.parametrize("name", ["../images/a.png", "..\\images\\a.png", "C:\\work\\a.png", "images/a.png"])
def test_image_paths_lead_from_the_json_file_or_are_found_by_name(tmp_path, name):
    image(tmp_path / "images" / "a.png")
    write(tmp_path / "json" / "a.json", labelme_file(name, ("cat", "rectangle", [[1, 1], [4, 4]])))
    data = read(str(tmp_path))
    assert data.images[0].file_name == str(tmp_path / "images" / "a.png") and data.images[0].image_id == "images/a.png"


def test_a_size_that_is_absent_comes_from_the_image(tmp_path):
    image(tmp_path / "a.png", 40, 30)
    content = labelme_file("a.png", ("cat", None, [[1, 1], [4, 4], [2, 9]]))  # LabelMe 2 has polygons without a type
    del content["imageHeight"], content["imageWidth"], content["shapes"][0]["shape_type"]
    data = read(write(tmp_path / "a.json", content))
    assert (data.images[0].width, data.images[0].height) == (40, 30) and boxes(data)["a.png"] == [("cat", (1, 1, 4, 9))]


def test_what_cannot_be_used_is_refused_and_what_is_not_read_is_said(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "other.png")
    write(
        tmp_path / "a.json", labelme_file("a.png", ("cat", "rectangle", [[1, 1]]), ("", "rectangle", [[1, 1], [2, 2]]))
    )
    write(tmp_path / "b.json", labelme_file("b.png", imageData="iVBORw0KGgo="))
    write(tmp_path / "c.json", "{")
    write(tmp_path / "config.json", {"labels": ["cat"]})
    read(str(tmp_path), findings=(findings := Findings()))
    text = "\n".join(map(str, findings.all))
    assert "1 shapes whose coordinates cannot be used" in text and "1 shapes without a class" in text
    assert "b.json" in text and "exists only inside" in text and "c.json: not valid JSON" in text
    assert "1 JSON files that are not LabelMe's" in text
    assert "1 images without an annotation file are not part of the set" in text and "other.png" in text
    with pytest.raises(UserError, match="cannot be used"):
        read(str(tmp_path))


XML = (
    "<annotation><filename>img1.png</filename><folder>one</folder><source><sourceImage>x</sourceImage></source>"
    "<object><name>window</name><deleted>0</deleted><polygon><username>a</username><pt><x>43</x><y>34</y></pt>"
    "<pt><x>45</x><y>37</y></pt><pt><x>44</x><y>33</y></pt></polygon></object>"
    "<object><name>plate</name><deleted>0</deleted><segm><box><xmin>5</xmin><ymin>6</ymin><xmax>12</xmax>"
    "<ymax>18</ymax></box><mask>m.png</mask></segm></object>"
    "<object><name>gone</name><deleted>1</deleted><polygon><pt><x>1</x><y>2</y></pt></polygon></object>"
    "<imagesize><nrows>48</nrows><ncols>64</ncols></imagesize></annotation>"
)


def test_the_xml_of_the_web_tool(tmp_path):
    image(tmp_path / "Images" / "one" / "img1.png")
    image(tmp_path / "Images" / "two" / "img1.png")
    write(tmp_path / "Annotations" / "one" / "img1.xml", XML)
    write(tmp_path / "Annotations" / "two" / "img1.xml", XML.replace("<folder>one", "<folder>two"))
    data = read(str(tmp_path))
    assert [i.image_id for i in data.images] == ["Images/one/img1.png", "Images/two/img1.png"]
    assert boxes(data)["img1.png"] == [("window", (43, 33, 45, 37)), ("plate", (5, 6, 12, 18))]
    assert data.summary == "read as LabelMe XML, 2 images, 2 classes"


def test_merged_shapes_are_counted_and_merged_rectangles_are_a_problem(tmp_path):
    image(tmp_path / "a.png")
    triangle, rectangle = [[1, 1], [4, 4], [2, 9]], [[1, 1], [4, 4]]
    parts = [
        {"label": label, "shape_type": kind, "points": points, "group_id": 7}
        for label, kind, points in [("cat", "polygon", triangle)] * 3 + [("dog", "rectangle", rectangle)] * 2
    ]
    write(tmp_path / "a.json", labelme_file("a.png", *parts))
    read(str(tmp_path), findings=(findings := Findings()))
    assert "1 rectangles merged" in str(findings.of(PROBLEM)[0]) and "shape 4 in" in str(findings.of(PROBLEM)[0])
    assert "2 shapes merged" in str(findings.of(NOTE)[0])


def test_words_that_mean_neither_yes_nor_no_are_refused(tmp_path):
    image(tmp_path / "a.png")
    shape = {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [4, 4]], "difficult": "maybe"}
    write(tmp_path / "a.json", labelme_file("a.png", shape))
    with pytest.raises(UserError, match=r"(?s)neither yes nor no.*shape 0 in .*a\.json: difficult is 'maybe'"):
        read(str(tmp_path))
    image(tmp_path / "xml" / "img1.png")
    write(tmp_path / "xml" / "a.xml", XML.replace("<deleted>1", "<deleted>perhaps"))
    with pytest.raises(UserError, match=r"(?s)neither yes nor no.*object 2 in .*a\.xml: deleted is 'perhaps'"):
        read(str(tmp_path / "xml"))


def test_long_labels_that_differ_in_the_middle_are_two_classes(tmp_path):
    labels = [f"{'a' * 15}{middle * 10}{'z' * 15}" for middle in "xy"]
    shapes = [
        {"label": label, "points": [[i, 1], [i + 9, 9]], "shape_type": "rectangle", "group_id": 1}
        for i, label in enumerate(labels)
    ]
    image(tmp_path / "a.png")
    write(tmp_path / "a.json", {"shapes": shapes, "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64})
    assert [label for label, _ in boxes(read(str(tmp_path)))["a.png"]] == labels
