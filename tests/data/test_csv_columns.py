"""CSV: corners, fractions, splits, marks and encodings."""

import pytest

pytest.importorskip("detectron2")

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.sources.find import parse_source, splits_of, validation_split
from fa_detectron.data.sources.source import NoSuchSplit
from fa_detectron.errors import UserError
from tests.data.exports import boxes, image, write
from tests.data.reading import clean, read

HEADER = "filename,xmin,ymin,xmax,ymax,class"


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("filename,x1,y1,x2,y2,x3,y3,x4,y4,class", "a.png,10,12,25,5,30,15,15,20,cat"),
        ("filename,x0,x1,x2,x3,y0,y1,y2,y3,class", "a.png,10,25,30,15,12,5,15,20,cat"),
        ("path,label,x_min,y_min,x_max,y_min,x_max,y_max,x_min,y_max", "a.png,cat,10,5,,,30,20,,"),
        ("path,label,x_min,y_min,x_max,y_min,x_max,y_max,x_min,y_max", "a.png,cat,10,5,30,5,30,20,10,20"),
    ],
)
def test_more_than_two_points_count_with_the_box_around_them(tmp_path, header, row):
    image(tmp_path / "a.png")
    data = read(write(tmp_path / "boxes.csv", f"{header}\n{row}\n"))
    assert boxes(data) == {"a.png": [("cat", (10, 5, 30, 20))]}


@pytest.mark.parametrize("row", ["a.png,10,12,25,5,30,,15,20,cat", "a.png,10,12,,,,,,,cat"])
def test_half_a_point_is_refused(tmp_path, row):
    image(tmp_path / "a.png")
    path = write(tmp_path / "boxes.csv", f"filename,x1,y1,x2,y2,x3,y3,x4,y4,class\n{row}\n")
    with pytest.raises(UserError, match="coordinates cannot be used"):
        read(path)


@pytest.mark.parametrize("column", ["split", "set", "Subset", "ml_use"])
@pytest.mark.parametrize("names", [("train", "val", "test"), ("TRAIN", "VALIDATION", "TEST")])
def test_a_column_names_the_splits(tmp_path, column, names):
    rows = [f"{column},{HEADER}"]
    for name, file in zip(names, "abc"):
        image(tmp_path / f"{file}.png")
        rows.append(f"{name},{file}.png,10,5,30,20,cat")
    path = write(tmp_path / "boxes.csv", "\n".join(rows))
    assert list(boxes(read(path))) == ["a.png"] and list(boxes(read(path, "val"))) == ["b.png"]
    assert list(boxes(read(f"{path}:test"))) == ["c.png"] and list(boxes(read(str(tmp_path), "val"))) == ["b.png"]
    assert list(splits_of(path)) == ["train", "val", "test"]
    assert str(validation_split(path)) == f"{path}:val"


def test_splits_that_are_absent_and_rows_without_one(tmp_path):
    image(tmp_path / "a.png")
    rows = [f"{HEADER},set", "a.png,10,5,30,20,cat,train", "a.png,1,2,3,4,dog,"]
    path = write(tmp_path / "boxes.csv", "\n".join(rows))
    assert validation_split(path) is None
    with pytest.raises(NoSuchSplit, match=r"has no split 'val'; it has train \(FILE.csv:SPLIT\)"):
        parse_source(path, "val")
    data = read(path, findings=(findings := Findings()))
    assert boxes(data) == {"a.png": [("cat", (10, 5, 30, 20))]}
    assert "1 rows that name no split, left out:\n  line 3" in str(findings.all[0])


def test_a_set_column_of_one_other_value_tells_no_split(tmp_path):
    image(tmp_path / "a.png")
    data = read(write(tmp_path / "boxes.csv", f"{HEADER},set\na.png,10,5,30,20,cat,first batch\n"), "val")
    assert len(data.images) == 1
    path = write(tmp_path / "two.csv", f"{HEADER},set\na.png,10,5,30,20,cat,training\na.png,1,2,3,4,cat,testing\n")
    with pytest.raises(NoSuchSplit, match="it has testing, training"):
        read(path)


@pytest.mark.parametrize("column", ["iscrowd", "difficult", "IsGroupOf", "group_of"])
def test_crowd_marks(tmp_path, column):
    image(tmp_path / "a.png")
    text = f"{HEADER},{column}\n" + "\n".join(f"a.png,10,5,30,20,cat,{mark}" for mark in ("0", "1", "no", "True", ""))
    data = read(write(tmp_path / "boxes.csv", text))
    assert [annotation.iscrowd for annotation in data.images[0].annotations] == [0, 1, 0, 1, 0]
    with pytest.raises(UserError, match=f"(?s)neither yes nor no.*line 2: {column} is 'maybe'"):
        read(write(tmp_path / "boxes.csv", f"{HEADER},{column}\na.png,10,5,30,20,cat,maybe\n"))


def test_columns_that_are_not_read_are_said_once(tmp_path):
    image(tmp_path / "a.png")
    text = f"{HEADER},Confidence,colour,,isOccluded\na.png,10,5,30,20,cat,0.1,red,,1\na.png,10,5,30,20,cat,1,red,,0\n"
    read(write(tmp_path / "boxes.csv", text), findings=(findings := Findings()))
    scores, others = findings.of(NOTE)
    assert "scores are not used" in scores.what and "'Confidence'" in scores.what
    assert others.what == "columns that are not read: 'colour', 'isOccluded'"


def test_fractions_a_little_beyond_1_are_not_pixels(tmp_path):
    image(tmp_path / "a.png")
    data = read(write(tmp_path / "boxes.csv", f"{HEADER}\na.png,0.25,0,0.5,1,cat\na.png,0.5,0.5,1.2,1,cat\n"))
    assert boxes(data) == {"a.png": [("cat", (16, 0, 32, 48)), ("cat", (32, 24, 76.8, 48))]}
    with pytest.raises(UserError, match="1 bad boxes"):  # the overshoot, in pixels
        clean(data)


def test_pixels_among_fractions_are_refused(tmp_path):
    image(tmp_path / "a.png")
    rows = ["a.png,0.25,0,0.5,1,cat"] * 3 + ["a.png,10,5,30,20,cat"]
    with pytest.raises(UserError, match="1 boxes in pixels, in a set whose other corners look like fractions"):
        read(write(tmp_path / "boxes.csv", "\n".join([HEADER, *rows])))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_files_that_excel_writes(tmp_path, encoding):
    image(tmp_path / "ä.png")
    text = f"{HEADER}\r\nä.png,10,5,30,20,Kätzchen\r\n".replace(",", "\t")
    (tmp_path / "boxes.csv").write_bytes(text.encode(encoding))
    assert boxes(read(str(tmp_path))) == {"ä.png": [("Kätzchen", (10, 5, 30, 20))]}


def test_empty_lines_before_the_header(tmp_path):
    image(tmp_path / "a.png")
    path = write(tmp_path / "boxes.csv", f"\n \n{HEADER},split\na.png,10,5,30,20,cat,train\na.png,1,2,x,4,cat,train\n")
    assert boxes(read(path, findings=(findings := Findings()))) == {"a.png": [("cat", (10, 5, 30, 20))]}
    assert "annotation 5 in" in str(findings.all[0])
