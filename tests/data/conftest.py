"""Small data sets on disk for the tests to spoil."""

import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def coco(tmp_path: Path):
    """A function that writes a COCO set: coco(edit) -> path of the JSON; ``edit`` changes its content first."""

    def write(edit=lambda content: None, name: str = "train") -> str:
        (tmp_path / "images").mkdir(exist_ok=True)
        for i in (1, 2, 3):
            Image.new("RGB", (64, 48), (i * 40, 90, 90)).save(tmp_path / "images" / f"{i}.png")
        content = {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2, 3)],
            "annotations": [
                {"id": 11, "image_id": 1, "category_id": 5, "bbox": [4, 4, 20, 10], "area": 120, "iscrowd": 0},
                {"id": 12, "image_id": 1, "category_id": 2, "bbox": [30, 8, 16, 16], "iscrowd": 0},
                {"id": 13, "image_id": 2, "category_id": 5, "bbox": [0, 0, 64, 48], "iscrowd": 1},
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "ant"}],
        }
        edit(content)
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        return str(path)

    return write


def voc_object(name: str, box, difficult: int = 0) -> str:
    """An <object> of a VOC file; box is (xmin, ymin, xmax, ymax) as VOC counts."""
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


@pytest.fixture
def voc(tmp_path: Path):
    """A function that writes a VOC folder: voc({id: objects}, splits) -> path of the folder."""

    def write(images: dict, splits: dict) -> str:
        root = tmp_path / "voc"
        for folder in ("ImageSets/Main", "Annotations", "JPEGImages"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for image_id, objects in images.items():
            Image.new("RGB", (64, 48), (90, 90, 90)).save(root / "JPEGImages" / f"{image_id}.jpg")
            size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
            text = f"<annotation>{size}{objects}</annotation>"
            (root / "Annotations" / f"{image_id}.xml").write_text(text)
        for split, ids in splits.items():
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        return str(root)

    return write


@pytest.fixture
def yolo(tmp_path: Path):
    """A function that writes a YOLO set: yolo({split: {stem: label lines or None}}) -> path of its data.yaml."""

    def write(splits: dict, names: str = "[ant, cat]", more: str = "") -> str:
        root = tmp_path / "yolo"
        for split, labels in splits.items():
            for folder in ("images", "labels"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
            for stem, lines in labels.items():
                colour = tuple(f"{split}///{stem}".encode())[-3:]
                Image.new("RGB", (64, 48), colour).save(root / "images" / split / f"{stem}.png")
                if lines is not None:
                    (root / "labels" / split / f"{stem}.txt").write_text(lines)
        keys = "".join(f"{split}: images/{split}\n" for split in splits)
        (root / "data.yaml").write_text(f"{keys}names: {names}\n{more}")
        return str(root / "data.yaml")

    return write


@pytest.fixture
def config(tmp_path: Path):
    """A function that gives a config with fa_detectron's keys and an own OUTPUT_DIR."""
    from detectron2.config import get_cfg

    from fa_detectron import add_feature_align_config

    def make():
        cfg = get_cfg()
        add_feature_align_config(cfg)
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
        cfg.OUTPUT_DIR = str(tmp_path / "run")
        return cfg

    return make


@pytest.fixture
def check(tmp_path, capsys):
    """A function that runs the command: (exit status, what it prints, its JSON)."""
    from tests.commands import call

    def run(*words):
        found = tmp_path / "found.json"
        found.unlink(missing_ok=True)
        status = call("check-data", "--json", found, "--output", tmp_path / "out" / "sheet.jpg", *words)
        output = capsys.readouterr()
        return status, output.out + output.err, json.loads(found.read_text()) if found.is_file() else None

    return run
