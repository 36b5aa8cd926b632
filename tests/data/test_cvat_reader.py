"""CVAT's XML: for images, with subsets, and for video."""

import pytest

pytest.importorskip("detectron2")

from fa_detectron.data.findings import Findings
from fa_detectron.data.sources.source import NoSuchSplit
from fa_detectron.errors import UserError
from tests.data.exports import boxes, cvat_xml, image, write
from tests.data.reading import read

SHAPES = """
  <image id="0" name="a.png" width="64" height="48">
    <box label="dog" source="manual" occluded="0" xtl="10.00" ytl="5.50" xbr="30.00" ybr="20.00" z_order="0"/>
    <box label="cat" occluded="0" xtl="20" ytl="20" xbr="40" ybr="30" rotation="90.00" z_order="0"/>
    <polygon label="cat" occluded="0" points="1.00,2.00;9.00,4.00;5.00,12.50" z_order="0"/>
    <ellipse label="cat" occluded="0" cx="30" cy="24" rx="10" ry="4" rotation="90.00" z_order="0"/>
    <mask label="cat" occluded="0" rle="3, 4" left="5" top="6" width="10" height="12" z_order="0"/>
    <points label="cat" occluded="0" points="1,2" z_order="0"/>
    <polyline label="cat" occluded="0" points="1,2;3,4" z_order="0"/>
    <tag label="cat" source="manual"/>
  </image>
  <image id="1" name="sub/b.png" width="64" height="48"/>
"""


def test_shapes_of_images(tmp_path):
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "images" / "sub" / "b.png")
    write(tmp_path / "annotations.xml", cvat_xml(SHAPES))
    data = read(str(tmp_path), findings=(findings := Findings()))
    assert boxes(data) == {
        "a.png": [
            ("dog", (10, 5.5, 30, 20)),
            ("cat", (25, 15, 35, 35)),
            ("cat", (1, 2, 9, 12.5)),
            ("cat", (26, 14, 34, 34)),
            ("cat", (5, 6, 15, 18)),
        ],
        "b.png": [],
    }
    assert data.classes == ("cat", "dog") and data.summary == "read as CVAT XML, 2 images, 2 classes"
    assert str(findings.all[0]).endswith("1 points, 1 polyline")


def test_classes_are_the_labels_that_can_have_boxes(tmp_path):
    image(tmp_path / "a.png")
    labels = "<label><name>night</name><type>tag</type></label><label><name>eye</name><type>points</type></label>"
    text = cvat_xml('<image id="0" name="a.png" width="64" height="48"/>').replace("<labels>", "<labels>" + labels)
    assert read(write(tmp_path / "a.xml", text)).classes == ("cat", "dog")


def _subsets(root):
    body = ""
    for number, subset in enumerate(("Train", "Validation")):
        image(root / "images" / subset / "a.png", shade=number)
        box = f'<box label="cat" xtl="{number}" ytl="0" xbr="9" ybr="9"/>'
        body += f'<image id="0" name="a.png" subset="{subset}" width="64" height="48">{box}</image>'
    return write(root / "annotations.xml", cvat_xml(body))


def test_subsets_are_splits(tmp_path):
    path = _subsets(tmp_path)
    for text, split, subset, x1 in (
        (path, "train", "Train", 0),
        (path, "val", "Validation", 1),
        (f"{path}:Validation", "train", "Validation", 1),
        (str(tmp_path), "val", "Validation", 1),
    ):
        data = read(text, split)
        assert data.images[0].file_name == str(tmp_path / "images" / subset / "a.png")
        assert [a.box[0] for a in data.images[0].annotations] == [x1]
    with pytest.raises(NoSuchSplit, match="no subset 'test'; it has Train, Validation"):
        read(path, "test")


def test_a_subset_called_default_is_none(tmp_path):
    image(tmp_path / "a.png")
    path = write(tmp_path / "a.xml", cvat_xml('<image id="0" name="a.png" subset="default" width="64" height="48"/>'))
    assert len(read(path, "val").images) == 1


TRACKS = """
  <track id="0" label="cat" source="manual">
    <box frame="10" outside="0" occluded="0" keyframe="1" xtl="0" ytl="0" xbr="10" ybr="10" z_order="0"/>
    <box frame="14" outside="0" occluded="0" keyframe="1" xtl="20" ytl="8" xbr="30" ybr="18" z_order="0"/>
    <box frame="18" outside="1" occluded="0" keyframe="1" xtl="40" ytl="16" xbr="50" ybr="26" z_order="0"/>
  </track>
  <track id="1" label="dog" source="manual">
    <polygon frame="16" outside="0" occluded="0" keyframe="1" points="1,1;5,1;3,9" z_order="0"/>
  </track>
  <track id="2" label="dog" source="manual"><points frame="10" outside="0" keyframe="1" points="1,2"/></track>
"""
SIZE = "<original_size><width>64</width><height>48</height></original_size>"


def test_tracks_of_a_video(tmp_path):
    for frame in (8, 10, 11, 14, 16, 18, 20):
        image(tmp_path / "images" / f"frame_{frame:06d}.png")
    image(tmp_path / "images" / "cover_2.png")
    write(tmp_path / "annotations.xml", cvat_xml(TRACKS, meta=SIZE))
    data = read(str(tmp_path), findings=(findings := Findings()))
    assert boxes(data) == {
        "frame_000008.png": [],
        "frame_000010.png": [("cat", (0, 0, 10, 10))],
        "frame_000011.png": [("cat", (5, 2, 15, 12))],  # a quarter of the way
        "frame_000014.png": [("cat", (20, 8, 30, 18))],
        "frame_000016.png": [("cat", (20, 8, 30, 18)), ("dog", (1, 1, 5, 9))],  # the next frame is outside: stays
        "frame_000018.png": [("dog", (1, 1, 5, 9))],
        "frame_000020.png": [("dog", (1, 1, 5, 9))],
    }
    assert "1 points of tracks" in str(findings.all[0])


def test_frames_without_an_image_are_counted_and_a_video_without_frames_is_refused(tmp_path):
    image(tmp_path / "images" / "frame_000014.png")
    write(tmp_path / "annotations.xml", cvat_xml(TRACKS, meta=SIZE))
    read(str(tmp_path), findings=(findings := Findings()))
    assert "2 annotated frames without an image" in "\n".join(map(str, findings.all))
    (tmp_path / "images" / "frame_000014.png").unlink()
    with pytest.raises(UserError, match="annotates a video, and there is no image of its frames"):
        read(str(tmp_path))


def test_broken_shapes(tmp_path):
    image(tmp_path / "a.png")
    body = (
        '<image id="0" name="a.png" width="64" height="48"><box label="cat" xtl="1" ytl="x" xbr="3" ybr="4"/>'
        '<polygon label="cat" points="1,2;3"/><box label="" xtl="1" ytl="2" xbr="3" ybr="4"/></image>'
    )
    path = write(tmp_path / "a.xml", cvat_xml(body))
    data = read(path, findings=(findings := Findings()))
    text = "\n".join(map(str, findings.all))
    assert "2 shapes whose coordinates cannot be used" in text and "1 shapes without a class left out" in text
    assert boxes(data) == {"a.png": []}


def test_outside_must_be_yes_or_no(tmp_path):
    image(tmp_path / "frame_000000.png")
    box = '<box frame="0" outside="perhaps" xtl="1" ytl="2" xbr="9" ybr="9"/>'
    path = write(tmp_path / "a.xml", cvat_xml(f'<track id="0" label="cat">{box}</track>'))
    with pytest.raises(UserError, match=r"(?s)neither yes nor no.*track 0, frame 0: outside is 'perhaps'"):
        read(path)
