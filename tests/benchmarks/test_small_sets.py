"""benchmarks/small_sets.py: a peer trains, each method gets its best rate, and the test scenes are their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fa_detectron.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import parts
import parts_data
import small_sets

SMALL = (
    *("SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "MODEL.TIMM.WEIGHTS", "", "TEST.EVAL_PERIOD", "0"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.FPN.OUT_CHANNELS", "64"),
    *("DATALOADER.NUM_WORKERS", "0", "INPUT.SAMPLE_PICTURES", "0", "TEST.SAMPLE_PICTURES", "0"),
)


@pytest.mark.parametrize("peer", ["RetinaNetPeer", "FCOSPeer"])
def test_a_peer_trains_and_is_evaluated(peer: str, tmp_path: Path) -> None:
    data = parts.make_large_objects(tmp_path / "large")["val"]
    content = json.loads(data.read_text())
    content["images"], content["annotations"] = content["images"][:4], content["annotations"][:4]
    data.write_text(json.dumps(content))
    line = [sys.executable, ROOT / "benchmarks" / "peers.py", "--config-file", ROOT / "configs" / "small_data.yaml"]
    keys = ["MODEL.META_ARCHITECTURE", peer, *SMALL, "OUTPUT_DIR", tmp_path / "run"]
    done = subprocess.run(
        [*map(str, line), "--train", data, "--val", data, *map(str, keys)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert any("bbox/AP" in line for line in lines)


def test_each_method_gets_the_rate_that_is_best_over_the_sets(capsys) -> None:
    found = {("a", 0.1): (30, 60), ("a", 0.2): (50, 50), ("b", 0.1): (20, 20), ("b", 0.2): (0, 30)}
    rows = [
        {"set": name, "variant": f"{method}/{rate}", "AP": ap}
        for (method, rate), of_sets in found.items()
        for name, ap in zip(("x", "y"), of_sets)
    ]
    assert small_sets.best_rates(rows, ["a", "b"]) == {"a": 0.2, "b": 0.1}
    assert "a: mean AP 0.1: 45.0, 0.2: 50.0; the best is at the edge" in capsys.readouterr().out
    with pytest.raises(UserError, match="a has not been tuned on the same sets"):
        small_sets.best_rates(rows[1:], ["a", "b"])


def test_what_is_tested_on_is_not_what_is_tuned_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fa_detectron.data.builtin.dataset.SPLITS", {"train": (1, 2), "val": (2, 2)})
    monkeypatch.setattr(parts_data, "_LARGE", {split: (seed, 2) for split, (seed, _) in parts_data._LARGE.items()})
    monkeypatch.setattr(parts_data, "_BUILTIN_TEST", (parts_data._BUILTIN_TEST[0], 2))
    tuned = parts.data_words([["mine", "train", "val"]], tmp_path)
    tested = parts.data_words([["mine", "train", "test"]], tmp_path, test=True)
    assert tuned.keys() == tested.keys() == {"builtin", "large", "mine"}
    for name, words in tuned.items():
        assert words[:2] == tested[name][:2] and words[3] != tested[name][3]
    pictures = [Path(words["large"][3]).with_suffix("") / "000000.png" for words in (tuned, tested)]
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
