"""benchmarks/parts.py: its queue, its data, its statistics, and one run from the queue to the table."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fa_detectron.engine import load_config
from fa_detectron.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import parts
import parts_data
import parts_table
from average_precision import Matches, resample


@pytest.fixture
def detections(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve images with boxes of two classes, and detections that are some near, some far, some of the wrong class."""
    rng = np.random.RandomState(0)
    truth: dict = {"images": [], "annotations": [], "categories": [{"id": i, "name": str(i)} for i in (1, 2)]}
    found = []
    for image in range(1, 13):
        name = f"{image // 2}_jpg.rf.{image}.jpg"
        truth["images"].append({"id": image, "file_name": name, "height": 99, "width": 99})
        for _ in range(rng.randint(0, 4)):
            box, label = rng.randint(1, 40, size=4).astype(float), int(rng.randint(1, 3))
            entry = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": label, "iscrowd": 0}
            truth["annotations"].append({**entry, "bbox": box.tolist(), "area": box[2] * box[3]})
            for _ in range(rng.randint(0, 3)):
                near = (box + rng.uniform(-3, 3, size=4)).clip(1).tolist()
                label = label if rng.uniform() < 0.8 else 3 - label
                found.append({"image_id": image, "category_id": label, "bbox": near, "score": float(rng.uniform())})
    files = tmp_path / "truth.json", tmp_path / "detections.json"
    for file, content in zip(files, (truth, found)):
        file.write_text(json.dumps(content))
    return files


def test_weighted_ap_is_pycocotools_over_copied_images(detections: tuple[Path, Path], tmp_path: Path) -> None:
    matches = Matches(*detections)
    weights = np.array([0, 2, 1, 1, 3, 0, 1, 1, 0, 1, 1, 1])
    truth, found = (json.loads(file.read_text()) for file in detections)
    copies: dict = {"images": [], "annotations": [], "categories": truth["categories"]}
    copied = []
    for image, count in zip(truth["images"], weights):
        for _ in range(count):
            name = len(copies["images"]) + 1
            copies["images"].append({**image, "id": name})
            for entry in truth["annotations"]:
                if entry["image_id"] == image["id"]:
                    number = len(copies["annotations"]) + 1
                    copies["annotations"].append({**entry, "image_id": name, "id": number})
            copied += [{**entry, "image_id": name} for entry in found if entry["image_id"] == image["id"]]
    (tmp_path / "copies.json").write_text(json.dumps(copies))
    coco = COCO(str(tmp_path / "copies.json"))
    evaluation = COCOeval(coco, coco.loadRes(copied), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert 5 < matches.average_precision(weights) < 95
    # Copies have equal scores, which pycocotools takes one after the other.
    assert matches.average_precision(weights) == pytest.approx(100 * evaluation.stats[0], abs=1.5)
    coco = COCO(str(detections[0]))
    evaluation = COCOeval(coco, coco.loadRes(str(detections[1])), "bbox")
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    assert matches.average_precision(np.ones(12)) == pytest.approx(100 * evaluation.stats[0])


def test_copies_of_a_photograph_are_drawn_together(detections: tuple[Path, Path]) -> None:
    matches = Matches(*detections, parts_data.source_photograph)
    draws = resample(matches.sources, 50)
    assert matches.sources[1:5] == ["1_jpg", "1_jpg", "2_jpg", "2_jpg"]
    assert (draws[:, 1] == draws[:, 2]).all() and (draws[:, 1] != draws[:, 3]).any()
    assert np.array_equal(draws, resample(matches.sources, 50))


def test_differences_are_paired_by_seed_and_image() -> None:
    def run(seed: int, ap: float, noise: list[float]) -> dict:
        return {"seed": seed, "AP": ap, "resampled": [ap + x for x in noise]}

    shared = [0.0, 8.0, -8.0]
    runs = [run(0, 50.0, shared), run(1, 54.0, shared)]
    others = [run(0, 49.0, shared), run(1, 53.0, shared), run(2, 10.0, shared)]
    assert parts_table.compare(runs, others) == (pytest.approx(1.0), pytest.approx(0.0))
    difference, spread = parts_table.compare([run(5, 50.0, shared)], [run(6, 40.0, [0.0, 0.0, 0.0])])
    assert difference == 10 and spread == pytest.approx(8.0)


def test_a_split_keeps_the_copies_of_a_photograph_together(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"photo{i % 10}_jpg.rf.{i}.jpg", "height": 9, "width": 9} for i in range(30)]
    boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 3, 3]} for i in range(30)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}
    source = tmp_path / "all.json"
    source.write_text(json.dumps(content))
    halves = [json.loads(file.read_text()) for file in parts_data.cut_by_photograph(source, tmp_path / "cut")]
    photographs = [{parts_data.source_photograph(x["file_name"]) for x in half["images"]} for half in halves]
    assert not photographs[0] & photographs[1] and len(photographs[0] | photographs[1]) == 10
    assert [len(half["images"]) for half in halves] == [24, 6] == [len(half["annotations"]) for half in halves]
    assert {x["image_id"] for x in halves[1]["annotations"]} == {x["id"] for x in halves[1]["images"]}


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("bccd dagger 300", "expected SETS"),
        ("bccd dager 300 0", "no known variant"),
        ("bccd dagger/mine 300 0", "no known variant"),
        ("bccd dagger 300 0 SEED 1", "name of its own"),
    ],
)
def test_a_wrong_line_of_the_queue_is_named(line: str, complaint: str, tmp_path: Path) -> None:
    queue = tmp_path / "queue.txt"
    queue.write_text(f"# first\n{line}\n")
    with pytest.raises(UserError, match=f"queue.txt:2: .*{complaint}"):
        parts.read_queue(queue)


@pytest.mark.parametrize("name", ["parts_queue.txt", "parts_screen_queue.txt"])
def test_the_committed_queues_name_known_keys(name: str) -> None:
    jobs = {job.variant: job for job in parts.read_queue(ROOT / "benchmarks" / name)}
    assert len(jobs) >= 10
    for job in jobs.values():
        load_config(str(ROOT / "configs" / "small_data.yaml"), job.overrides(Path("x")))


def test_a_run_from_the_queue_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    small = "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2 MODEL.TIMM.WEIGHTS ''"
    monkeypatch.setattr("fa_detectron.data.builtin.dataset.SPLITS", {"train": (1, 2), "val": (2, 2)})
    monkeypatch.setattr(parts_data, "_LARGE", {split: (seed, 8) for split, (seed, _) in parts_data._LARGE.items()})
    queue, output, page = tmp_path / "queue.txt", tmp_path / "runs", tmp_path / "page.md"
    queue.write_text(f"tiny autoassign/small 3 0 {small}\n")
    val = parts_data.make_large_objects(tmp_path / "large")["val"]
    content = json.loads(val.read_text())
    content["images"] = content["images"][:8]
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] <= 8]
    source = val.with_name("some.json")
    source.write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def call(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["parts.py", *map(str, words), "--output", str(output), "--queue", str(queue)])
        parts.main()
        return capfd.readouterr().out

    with pytest.raises(UserError, match="no finished run"):
        call("table")
    assert "seed0: done" in call("run", "--set", "tiny", source)
    assert "seed0" not in call("run", "--set", "tiny", source)  # there is nothing left to do
    page.write_text("before\n<!-- parts.py table -->\nold\n<!-- end -->\nafter\n")
    call("table", "--json", tmp_path / "rows.json", "--page", page)
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["set"], row["variant"], row["iterations"], row["seed"]) == ("tiny", "autoassign/small", 3, 0)
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "| autoassign/small |" in text
    assert "old" not in text
    queue.write_text(f"tiny autoassign/small 3 0 {small} SOLVER.BASE_LR 0.5\n")
    with pytest.raises(UserError, match=r"SOLVER\.BASE_LR"):
        call("run", "--set", "tiny", source)


def test_level_statistics_of_a_run(tmp_path: Path) -> None:
    """The encoder's output is named as collapsed where it is: its last norm has no scale left."""
    import level_statistics

    from fa_detectron.engine import Trainer, load_config
    from fa_detectron.inference import Run

    words = "MODEL.DEVICE cpu MODEL.FEATURE_ALIGN.NUM_CLASSES 1 INPUT.MIN_SIZE_TEST 64 MODEL.TIMM.WEIGHTS ''".split()
    cfg = load_config(str(ROOT / "configs" / "small_data.yaml"), words)
    model = Trainer.build_model(cfg).eval()
    parts_data.make_large_objects(tmp_path)
    image = str(tmp_path / "val" / "000000.png")
    box = {"bbox": [100.0, 80.0, 300.0, 240.0], "bbox_mode": 0, "category_id": 0}
    records = [{"file_name": image, "annotations": [box]}]
    run = Run(str(tmp_path), cfg, model, ("shape",), (1,))
    rows = level_statistics.level_rows(run, records) | level_statistics.map_rows(run, records)
    assert sum(rows["W"]) == pytest.approx(1) and sum(rows["wins"]) == 1
    assert rows["mu"] == [0.0] * 5 and rows["sigma"] == [1.0] * 5
    assert rows["variance of the encoder's output"][0] > 0.01
    assert 0 < rows["share of C5 in P3, P4"][0] < rows["share of C5 in P3, P4"][1] < 1
    model.backbone.global_attention.layers[-1].norm2.weight.data.zero_()
    assert level_statistics.map_rows(run, records)["variance of the encoder's output"] == [0.0]
