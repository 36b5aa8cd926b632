"""Data sets from anywhere: whatever a file holds, reading it ends in a set or in words, and stays in its folder."""

import copy
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("detectron2")

from fa_detectron.data.checks.boxes import clean_boxes, repeated_boxes
from fa_detectron.data.checks.classes import check_classes
from fa_detectron.data.checks.images import same_content, scan_images
from fa_detectron.data.checks.statistics import InputSize, box_statistics
from fa_detectron.data.conversion import to_coco_json, to_dataset_dicts
from fa_detectron.data.findings import Findings
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import ReadOptions
from fa_detectron.data.sources.find import parse_source
from fa_detectron.errors import UserError
from tests.data.exports import cvat_xml, label_studio_region, label_studio_task, labelme_file
from tests.fuzz.cases import NASTY_TEXTS, example, fuzz, mutate_bytes, mutate_json, nasty

SIZE = InputSize(800, 1333, (8, 16, 32), 0.0)
SPLITS = ["train", "val", "", "..", "a b", "\0", "names"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images, and links that lead in and out."""
    root = tmp_path_factory.mktemp("fuzz")
    for kind in ("images", "JPEGImages"):
        (root / kind).mkdir()
        for name in ("1.png", "2.png", "3.jpg"):
            Image.new("RGB", (64, 48), (90, 90, 90)).save(root / kind / name)
        (root / kind / "in.png").symlink_to("1.png")
        (root / kind / "out.png").symlink_to("/etc/hostname")
        (root / kind / "loop.png").symlink_to("loop.png")
    return root


def use(text: str, split: str, within: str = "") -> None:
    """Read a set as training and as check_data do; both end in a set (of images ``within``) or in a UserError."""
    root = os.path.realpath(within or (text.rpartition(":")[0] if not os.path.exists(text) else text))
    root = root if os.path.isdir(root) else os.path.dirname(root)
    for findings in (Findings(strict=True), Findings()):
        try:
            source = parse_source(text, split)
            data = read_annotated_set(source, ReadOptions(), findings)
            check_classes(data, ("cat", "ant"), Findings())
            clean_boxes(data, "skip", findings)
        except UserError as error:
            assert str(error) and "Traceback" not in str(error)
            continue
        for image in data.images:
            assert os.path.realpath(image.file_name).startswith(root + os.sep)
            assert all(0 <= v <= 1e6 for annotation in image.annotations for v in annotation.box)
        box_statistics(data, SIZE)
        repeated_boxes(data)
        same_content(data, scan_images(data, ImageReader(), Findings()))
        to_dataset_dicts(data, data.classes)
        json.dumps(to_coco_json(data, data.classes), allow_nan=False)


def coco_content() -> dict:
    return {
        "images": [
            {"id": i, "file_name": f, "width": 64, "height": 48} for i, f in enumerate(("1.png", "2.png", "3.jpg"))
        ],
        "annotations": [
            {"id": 11, "image_id": 1, "category_id": 5, "bbox": [4, 4, 20, 10], "area": 120, "iscrowd": 0},
            {"id": 12, "image_id": 2, "category_id": 2, "bbox": [30.5, 8, 16, 16.25], "iscrowd": 1},
            {"id": 13, "image_id": 2, "category_id": 2, "segmentation": {"size": [48, 64], "counts": "Q`03]1c0O"}},
            {"id": 14, "image_id": 3, "category_id": 5, "segmentation": {"size": [48, 64], "counts": [900, 9, 2163]}},
            {"id": 15, "image_id": 3, "category_id": 5, "segmentation": [[4, 4, 20, 4, 20, 10]]},
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "ant"}],
    }


@st.composite
def coco_files(draw) -> bytes:
    content = coco_content()
    for image in content["images"]:
        if draw(st.integers(0, 3)) == 0:
            image["file_name"] = draw(
                st.sampled_from(["in.png", "out.png", "loop.png", "../images/1.png", *NASTY_TEXTS])
            )
    if draw(st.booleans()):
        content = mutate_json(draw, content)
    data = json.dumps(content).encode()
    return mutate_bytes(draw, data) if draw(st.integers(0, 2)) == 0 else data


@fuzz
@given(coco_files())
def test_coco(folder, data):
    (folder / "train.json").write_bytes(data)
    with example(data, folder):
        use(str(folder / "train.json"), "train")


_XML = (
    "{head}<annotation>{extra}<size><width>{w}</width><height>{h}</height></size><object><name>{name}</name>"
    "<difficult>{hard}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"
    "</object></annotation>"
)
_HEADS = [
    "", '<?xml version="1.0" encoding="utf-16"?>', '<?xml version="1.1"?>', "<!DOCTYPE annotation>",
    '<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;&l;&l;"><!ENTITY n "&m;&m;&m;&m;&m;&m;&m;&m;">]>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">', '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
    '<?xml version="1.0" encoding="no-such"?>', "\ufeff", "<!---->", "<?php?>",
]  # fmt: skip
_EXTRAS = [
    "",
    "&n;",
    "&m;",
    "<a>" * 3000 + "</a>" * 3000,
    "<object/>" * 50,
    "<![CDATA[x]]>",
    "<size/>",
    "&#0;",
    "&#x110000;",
]
_TEXTS = st.one_of(st.sampled_from(NASTY_TEXTS), st.integers(-9, 99).map(str), st.floats().map(str), nasty.map(str))


@st.composite
def voc_files(draw) -> tuple[bytes, str]:
    fields = {"head": "", "extra": "", "w": 64, "h": 48, "name": "cat", "hard": 0, "x1": 3, "y1": 3, "x2": 30, "y2": 30}
    for key in draw(st.sets(st.sampled_from(list(fields)), max_size=4)):
        pool = {"head": st.sampled_from(_HEADS), "extra": st.sampled_from(_EXTRAS)}.get(key, _TEXTS)
        fields[key] = draw(pool)
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "latin-1"]))
    data = _XML.format(**fields).encode(encoding, "replace")
    ids = draw(st.lists(st.one_of(st.sampled_from(["1", "2", "in", "out", "loop", "x 1"]), _TEXTS), max_size=4))
    return (mutate_bytes(draw, data) if draw(st.integers(0, 2)) == 0 else data), "\n".join(["1", *ids])


@fuzz
@given(voc_files(), st.sampled_from(SPLITS))
def test_voc(folder, files, split):
    data, ids = files
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "JPEGImages").symlink_to(folder / "JPEGImages")
        for name in ("ImageSets/Main", "Annotations"):
            (Path(root) / name).mkdir(parents=True)
        for name in ("1", "2", "in", "out"):
            (Path(root) / "Annotations" / f"{name}.xml").write_bytes(data)
        (Path(root) / "Annotations" / "loop.xml").symlink_to("/etc/hostname")
        (Path(root) / "ImageSets" / "Main" / "train.txt").write_bytes(ids.encode("utf-8", "replace"))
        with example(files, folder, root):
            use_voc(f"{root}:{split}" if split else root, folder)


def use_voc(text: str, folder: Path) -> None:
    try:
        source = parse_source(text, "train")
        data = read_annotated_set(source, ReadOptions(), Findings(strict=True))
        clean_boxes(data, "skip", Findings())
    except UserError as error:
        assert str(error)
        return
    box_statistics(data, SIZE)
    json.dumps(to_coco_json(data, data.classes), allow_nan=False)
    for image in data.images:
        assert os.path.realpath(image.file_name).startswith(os.path.realpath(folder))


_LINES = ["0 0.5 0.5 0.5 0.5", "1 .1 .1 .2 .2", "0 nan inf 1 1", "0 1e308 1e308 1e308 1e308", "9 .5 .5 .5 .5",
          "0 0 0 1 0 1 1",
          "-0 1 1 1 1", "0 -5 -5 .1 .1", "0 .5 .5 -1 -1", "\ufeff0 .5 .5 1 1", "0\t.5\u2028.5 1 1", "0 0x1 1 1 1",
          "1_0 1 1 1 1", "cat .5 .5 .2 .2", "9 9 30 9 30 30 9 30 cat 1", "0 .5 .5 .2 .2 .9 7", "0,.5,.5,.2,.2",
          "0.0 .5 .5 .2 .2 .9",
          "0 .5 .5 .4 .4 .5 .5 .6 .6 2 2", "1e9 1 1 1 1", "0 1e999 1 1 1"]  # fmt: skip
_YAML = ["images", "images/", "./images", "../yolo/images", "/etc", "list.txt", "[images, list.txt]", "{a: b}", "out",
         "*x", "&a [*a]",
         "!!python/object/apply:os.system [x]", "!!binary x", "2001-99-99", "!!timestamp x", "!!bool x", "1:1:1",
         "0o9", "~", "<<: 1"]  # fmt: skip


_NAMES = ["[ant, cat]", "{'0': ant, 1: cat}", "list.txt", "~", "{1: cat}", "[yes, no]", "[[a]]", "3", "{x: y}"]
_KEYS = ["", "path: .", "path: [1]", "path: /content", "kpt_shape: [1, 2]", "kpt_shape: [0, 3]", "kpt_shape: x",
         "nc: 2", "nc: x", "a: &a [x]\nb: [*a]"]  # fmt: skip


@st.composite
def yolo_files(draw) -> tuple[bytes, bytes, str]:
    names = draw(st.sampled_from([*_NAMES, *_YAML]))
    split = draw(st.one_of(st.just("images"), st.sampled_from(_YAML)))
    extra = draw(st.sampled_from(_KEYS))
    text = f"train: {split}\nnames: {names}\n{extra}\n".encode()
    lines = draw(st.lists(st.one_of(st.sampled_from(_LINES), _TEXTS), max_size=5))
    labels = "\n".join(lines).encode("utf-8", "replace")
    if draw(st.integers(0, 2)) == 0:
        text = mutate_bytes(draw, text)
    if draw(st.integers(0, 2)) == 0:
        labels = mutate_bytes(draw, labels)
    return text, labels, draw(st.sampled_from(["train", *SPLITS]))


@fuzz
@given(yolo_files())
def test_yolo(folder, files):
    text, labels, split = files
    (folder / "labels").mkdir(exist_ok=True)
    for name in ("1", "2", "3"):
        (folder / "labels" / f"{name}.txt").write_bytes(labels)
    (folder / "list.txt").write_bytes(labels + b"\nimages/1.png\nimages/out.png\n/etc/passwd\n")
    (folder / "data.yaml").write_bytes(text)
    with example(files, folder):
        use(f"{folder / 'data.yaml'}:{split}" if split else str(folder / "data.yaml"), "train")


_NAMES = ["1.png", "images/2.png", "in.png", "out.png", "loop.png", "../images/1.png", "C:\\a\\1.png", "a/%31.png"]
_RECT = {"name": "rect", "x": 4, "y": 4, "width": 20, "height": 10}
_POLYGON = {"name": "polygon", "all_points_x": [1, 30, 9], "all_points_y": [2, 9, 30]}
_VIA = {
    "1.png9": {
        "filename": "1.png",
        "regions": [
            {"shape_attributes": _RECT, "region_attributes": {"class": "cat"}},
            {"shape_attributes": _POLYGON, "region_attributes": {"class": {"ant": True}}},
        ],
    }
}
_MINIMAL = {"x": 5, "y": 5, "width": 50, "height": 9, "rotation": 9, "rectanglelabels": ["cat"], "original_width": 64}
_JSON_EXPORTS = [
    [
        label_studio_task(1, "1.png", label_studio_region((5, 5, 50, 50), ["cat"], rotation=20)),
        label_studio_task(2, "/data/upload/1/1a2b3c4d-2.png", label_studio_region((9, 9, 5, 5), ["ant"], "labels")),
    ],
    [{"id": 1, "image": "1.png", "label": [_MINIMAL], "annotation_id": 3, "updated_at": "2024"}],
    labelme_file(
        "1.png",
        ("cat", "rectangle", [[4, 4], [20, 9]]),
        ("cat", "circle", [[20, 20], [24, 24]]),
        {"label": "ant", "shape_type": "mask", "points": [[1, 1], [9, 9]], "group_id": 1},
    ),
    _VIA,
    {"_via_img_metadata": _VIA, "_via_attributes": {"region": {"class": {"type": "dropdown"}}}},
    [
        {
            "image": "1.png",
            "annotations": [{"label": "cat", "coordinates": {"x": 20, "y": 20, "width": 9, "height": 9}}],
        }
    ],
]
_CVAT = (
    '<image id="0" name="{name}" width="{n}" height="48" subset="{text}"><box label="cat" xtl="{n}" ytl="3" xbr="30" '
    'ybr="{m}" rotation="{m}"/><polygon label="{text}" points="{n},2;{text};3,9"/><ellipse label="cat" cx="{n}" cy="9" '
    'rx="{m}" ry="4"/><mask label="cat" left="{n}" top="{m}" width="5" height="5"/></image>'
)
_TRACK = (
    '<track id="0" label="{text}"><box frame="{n}" outside="{m}" xtl="1" ytl="3" xbr="30" ybr="20"/>'
    '<box frame="{m}" outside="0" xtl="1" ytl="3" xbr="30" ybr="20"/></track>'
)
_LABELME_XML = (
    "<annotation><filename>{name}</filename><folder>{text}</folder><object><name>cat</name><deleted>{n}</deleted>"
    "<polygon><pt><x>{n}</x><y>2</y></pt><pt><x>9</x><y>{m}</y></pt></polygon></object>"
    "<imagesize><nrows>48</nrows><ncols>{m}</ncols></imagesize></annotation>"
)
_HEADERS = ["filename,xmin,ymin,xmax,ymax,class", "class;ymax;xmax;ymin;xmin;image;width", "x1,y1,x2,y2,label,path",
            "filename,file_size,region_shape_attributes,region_attributes", '"filename"\t"x1', ","]  # fmt: skip


@st.composite
def exports(draw) -> bytes:
    """A file as a tool writes it, more or less."""
    kind = draw(st.sampled_from(["json", "xml", "csv"]))
    if kind == "json":
        data = json.dumps(mutate_json(draw, copy.deepcopy(draw(st.sampled_from(_JSON_EXPORTS))))).encode()
        name = draw(st.sampled_from([*_NAMES, *NASTY_TEXTS]))
        data = data.replace(b'"1.png"', json.dumps(name).encode()) if draw(st.booleans()) else data
    elif kind == "xml":
        body = draw(st.sampled_from([_CVAT, _TRACK, _CVAT + _TRACK, _LABELME_XML]))
        numbers = st.one_of(st.integers(0, 60).map(str), _TEXTS)
        body = body.format(name=draw(st.sampled_from(_NAMES)), n=draw(numbers), m=draw(numbers), text=draw(_TEXTS))
        data = (body if body.startswith("<annotation>") else cvat_xml(body)).encode("utf-8", "replace")
    else:
        field = st.one_of(st.sampled_from([*_NAMES, "3", "9.5", "40", '"{}"', ""]), _TEXTS)
        rows = draw(st.lists(st.lists(field, max_size=7).map(",".join), max_size=4))
        data = "\n".join([draw(st.sampled_from(_HEADERS)), "1.png,3,3,30,30,cat", *rows]).encode("utf-8", "replace")
    return mutate_bytes(draw, data) if draw(st.integers(0, 2)) == 0 else data


@fuzz
@given(exports(), st.sampled_from(["a.json", "annotations/a.xml", "a.csv", "train/a.xml", "train/a.json", "a"]))
def test_exports_of_annotation_tools(folder, data, name):
    with tempfile.TemporaryDirectory() as root:
        for kind in ("", "train"):
            shutil.copytree(folder / "images", Path(root) / kind / "images", symlinks=True)
        path = Path(root) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        with example((data, name), folder, root):
            use(root, "train")
            use(str(path), "train", within=root)
