"""Data sets from anywhere: whatever a file holds, reading it ends in a set or in words, and stays in its folder."""

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("detectron2")

from fa_detectron.data.box_statistics import InputSize, box_statistics, repeated_boxes
from fa_detectron.data.checks import check_classes, clean_boxes
from fa_detectron.data.conversion import to_coco_json, to_dataset_dicts
from fa_detectron.data.findings import Findings
from fa_detectron.data.image_scan import same_content, scan_images
from fa_detectron.data.paths import parse_source
from fa_detectron.data.pixels import ImageReader
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import ReadOptions
from fa_detectron.errors import UserError
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


def use(text: str, split: str) -> None:
    """Read a set as training and as check_data do; both end in a set or in a UserError."""
    root = os.path.realpath(text.rpartition(":")[0] if not os.path.exists(text) else text)
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
