"""VIA, CreateML and CSV."""

import json

import pytest

pytest.importorskip("detectron2")

from fa_detectron.data.findings import PROBLEM, Findings
from fa_detectron.errors import UserError
from tests.data.exports import boxes, image, write
from tests.data.reading import read


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


RECT = {"name": "rect", "x": 10, "y": 5, "width": 20, "height": 15}
BOX = (10, 5, 30, 20)


def via_file(*regions, name="a.png", **more):
    return {f"{name}123": {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}, **more}}


def test_via_shapes(tmp_path):
    image(tmp_path / "a.png")
    regions = [
        region(RECT, cls="cat"),
        region({"name": "circle", "cx": 30, "cy": 24, "r": 5}, cls="dog"),
        region({"name": "ellipse", "cx": 30, "cy": 24, "rx": 10, "ry": 4, "theta": 1.5707963}, cls="dog"),
        region({"name": "polygon", "all_points_x": [1, 9, 5], "all_points_y": [2, 4, 12]}, cls=3),
        region({"name": "point", "cx": 1, "cy": 2}, cls="cat"),
        region({"name": "polyline", "all_points_x": [1, 9], "all_points_y": [2, 4]}, cls="cat"),
    ]
    path = write(tmp_path / "via.json", via_file(*regions))
    data = read(path, findings=(findings := Findings()))
    expected = [("cat", BOX), ("dog", (25, 19, 35, 29)), ("dog", (26, 14, 34, 34)), ("3", (1, 2, 9, 12))]
    assert boxes(data) == {"a.png": expected} and data.classes == ("3", "cat", "dog")
    assert "1 point, 1 polyline" in str(findings.all[0])
    old = via_file()
    old["a.png123"]["regions"] = {str(i): item for i, item in enumerate(regions)}  # version 1
    assert boxes(read(write(tmp_path / "old.json", old))) == {"a.png": expected}
    project = {"_via_settings": {}, "_via_img_metadata": via_file(*regions), "_via_attributes": {"region": {}}}
    assert boxes(read(write(tmp_path / "project.json", project))) == {"a.png": expected}


@pytest.mark.parametrize(
    ("attributes", "project", "label"),
    [
        ({"species": "cat"}, {}, "cat"),
        ({"colour": "red", "Class": "cat"}, {}, "cat"),
        ({"colour": "red", "species": "cat"}, {"colour": {"type": "text"}, "species": {"type": "dropdown"}}, "cat"),
        ({"species": {"dog": False, "cat": True}}, {}, "cat"),
        ({}, {}, "object"),
    ],
)
def test_via_class_attribute(tmp_path, attributes, project, label):
    image(tmp_path / "a.png")
    content = {"_via_img_metadata": via_file(region(RECT, **attributes)), "_via_attributes": {"region": project}}
    data = read(write(tmp_path / "via.json", content))
    assert data.classes == (label,)


def test_via_class_attribute_that_is_not_clear(tmp_path):
    image(tmp_path / "a.png")
    path = write(tmp_path / "via.json", via_file(region(RECT, colour="red", species="cat")))
    with pytest.raises(UserError, match=r"attributes 'colour', 'species'.*Rename that one to 'class'"):
        read(path)


def test_via_csv(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    quoted = [json.dumps(value).replace('"', '""') for value in (RECT, {"cls": "cat"})]
    rows = [
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes",
        f'a.png,123,"{{}}",1,0,"{quoted[0]}","{quoted[1]}"',
        'b.png,99,"{}",0,0,"{}","{}"',
    ]
    data = read(write(tmp_path / "via.csv", "\n".join(rows)))
    assert boxes(data) == {"a.png": [("cat", BOX)], "b.png": []} and data.format == "VIA"


def createml(x, y, width, height, name="a.png"):
    coordinates = {"x": x, "y": y, "width": width, "height": height}
    return [{"image": name, "annotations": [{"label": "cat", "coordinates": coordinates}]}]


def test_createml_counts_from_the_centre(tmp_path):
    image(tmp_path / "a.png")
    data = read(write(tmp_path / "_annotations.createml.json", createml(20, 12.5, 20, 15)))
    assert boxes(data) == {"a.png": [("cat", BOX)]} and data.summary == "read as CreateML JSON, 1 images, 1 classes"


def test_createml_that_was_written_from_corners_is_read_so_and_pointed_out(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    items = createml(2, 3, 20, 15) + createml(30, 20, 20, 15, "b.png")
    data = read(write(tmp_path / "a.json", items), findings=(findings := Findings()))
    assert boxes(data) == {"a.png": [("cat", (2, 3, 22, 18))], "b.png": [("cat", (30, 20, 50, 35))]}
    (finding,) = findings.of(PROBLEM)
    assert len(finding.items) == 1 and "read with x and y as their upper left corner" in finding.what


@pytest.mark.parametrize(
    "items",
    [
        createml(9.5, 7, 20, 15),  # by half a pixel
        createml(2, 3, 20, 15) + createml(60, 40, 7, 8, "b.png"),  # a corner does not fit either
    ],
)
def test_createml_stays_with_the_centre_where_corners_are_not_certain(tmp_path, items):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    data = read(write(tmp_path / "a.json", items), findings=(findings := Findings()))
    coordinates = items[0]["annotations"][0]["coordinates"]
    assert boxes(data)["a.png"][0][1][0] == coordinates["x"] - 10 and not findings.of(PROBLEM)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,64,48,cat,10,5,30,20"),
        ("ymax;xmax;ymin;xmin;label;image", "20;30;5;10;cat;a.png"),
        ("image_path\tx1\ty1\tx2\ty2\tclass_name", "imgs/a.png\t10\t5\t30\t20\tcat"),
        ("Image,Left,Top,Right,Bottom,Label", "a.png,10.0,5.0,30.0,20.0,cat"),
        ("file,x0,y0,x1,y1,category,score", "C:\\imgs\\a.png,10,5,30,20,cat,1"),
        ('"filename", "xmin", "ymin", "xmax", "ymax", "class"', '"a.png", "10", "5", "30", "20", "cat"'),
        ("\ufefffilename,xmin,ymin,xmax,ymax,class", "a.png,10,5,30,20,cat"),
    ],
)
def test_csv_columns_in_any_order_and_by_their_usual_names(tmp_path, header, row):
    image(tmp_path / "imgs" / "a.png")
    data = read(write(tmp_path / "boxes.csv", f"{header}\n{row}\n"))
    assert boxes(data) == {"a.png": [("cat", BOX)]} and data.format == "CSV"


def test_csv_rows(tmp_path):
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    text = "filename,xmin,ymin,xmax,ymax,class\na.png,10,5,30,20,cat\n\na.png,1,2,3,4,dog\nb.png,,,,,\n"
    assert boxes(read(write(tmp_path / "boxes.csv", text))) == {
        "a.png": [("cat", BOX), ("dog", (1, 2, 3, 4))],
        "b.png": [],
    }
    broken = "filename,xmin,ymin,xmax,ymax,class\na.png,10,5,,20,cat\na.png,1,2,3,4,dog,7\n"
    read(write(tmp_path / "broken.csv", broken), findings=(findings := Findings()))
    text = "\n".join(map(str, findings.all))
    assert "1 shapes whose coordinates cannot be used" in text and "1 rows with more fields than the header (6)" in text


def test_csv_corners_between_0_and_1_are_fractions(tmp_path):
    image(tmp_path / "a.png")
    text = "ImageID,XMin,XMax,YMin,YMax,LabelName\na.png,0.25,0.5,0,1,cat\n"
    data = read(write(tmp_path / "boxes.csv", text), findings=(findings := Findings()))
    assert boxes(data) == {"a.png": [("cat", (16, 0, 32, 48))]} and "taken as fractions" in str(findings.all[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,10,5,30,20,cat\na.png,1,2,3,4,dog\n", "without a header.*filename,xmin,ymin,xmax,ymax,class"),
        ("filename,xmin,ymin,width,height,class\na.png,1,2,3,4,cat\n", "header lacks xmax, ymax"),
        ("filename, cat, dog\na.png, 1, 0\n", "multi-label classification.*no boxes"),
    ],
)
def test_other_csv_files_are_refused_by_name(tmp_path, text, message):
    image(tmp_path / "a.png")
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "_classes.csv", text))
    with pytest.raises(UserError, match=message):
        read(str(tmp_path))
