"""The best checkpoint of ten evaluations; --patience ends a run, and --resume does not go on by accident."""

import json
import math
import os
import shutil
import signal

import pytest
import torch

pytest.importorskip("detectron2")

from fa_detectron.engine import Trainer
from tests.engine.conftest import run
from tests.engine.test_resume import assert_same
from tests.engine.tiny import last_state

LONG = ("SOLVER.MAX_ITER", 8, "TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 1)


@pytest.fixture
def evaluations(monkeypatch) -> list[int]:
    """Evaluates to 10, 30, then ever less; the iterations that were evaluated."""
    seen: list[int] = []

    def evaluate(self) -> dict:
        with self.stop.at_once():
            seen.append(self.iter)
            self._results = {"bbox": {"AP": {0: 10.0, 1: 30.0}.get(self.iter, 30.0 - self.iter)}}
            return self._results

    monkeypatch.setattr(Trainer, "_evaluate", evaluate)
    return seen


def weights(path) -> dict:
    return torch.load(path, weights_only=True)


def test_the_best_checkpoint_is_not_the_last_where_that_is_worse(tiny, tmp_path, evaluations):
    run(*tiny.args, *LONG, "OUTPUT_DIR", tmp_path)
    best, final = (weights(tmp_path / name) for name in ("model_best.pth", "model_final.pth"))
    assert (best["iteration"], final["iteration"]) == (1, 7)
    assert any(not torch.equal(value, final["model"][key]) for key, value in best["model"].items())
    assert evaluations == [*range(7), 8]


def test_patience_stops_and_resume_does_not_go_on(tiny, tmp_path, evaluations):
    words = (*tiny.args[:2], "--patience", 3, *tiny.args[2:], *LONG, "OUTPUT_DIR", tmp_path)
    done = run(*words)
    assert evaluations == [0, 1, 2, 3, 4] and done.results["bbox"]["AP"] == 26.0
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert weights(tmp_path / "model_final.pth")["iteration"] == 4
    assert weights(tmp_path / "model_best.pth")["iteration"] == 1
    log = (tmp_path / "log.txt").read_text()
    assert "early stop after iteration 5 of 8: no better bbox/AP than 30.000, that of iteration 2" in log

    (tmp_path / "model_final.pth").unlink()  # as after a kill between the two files
    for _ in range(2):
        again = run(*words[:2], "--resume", *words[2:])
        assert not list(tmp_path.glob("model_after_*.pth"))
        assert again.results["bbox"] and (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert weights(tmp_path / "model_final.pth")["iteration"] == 4
    assert json.loads((tmp_path / "best_checkpoint.json").read_text())["since"] == [2, 3, 4]

    on = run(*words[:2], "--resume", *words[4:], "TEST.PATIENCE", 0)
    assert on.trainer.start_iter == 5 and (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"


def test_a_better_value_starts_the_count_anew(tiny, tmp_path, monkeypatch):
    values = [10.0, 9.0, 9.0, 11.0, math.nan, 10.0, 12.0, 5.0]
    monkeypatch.setattr(Trainer, "_evaluate", lambda self: {"bbox": {"AP": values[min(self.iter, 7)]}})
    done = run(*tiny.args, *LONG, "TEST.PATIENCE", 3, "OUTPUT_DIR", tmp_path)
    assert done.trainer.max_iter == 8


def test_an_interrupted_evaluation_is_made_up_for(tiny, tmp_path, evaluations, monkeypatch):
    """A signal during the evaluation after iteration 3: its checkpoint is there, its figures are not."""
    words = (*tiny.args, *LONG, "TEST.PATIENCE", 3, "OUTPUT_DIR")
    run(*words, tmp_path / "straight")
    evaluate = Trainer._evaluate

    def interrupted(self) -> dict:
        if self.iter == 2 and self.start_iter == 0:
            with self.stop.at_once():
                os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", interrupted)
        with pytest.raises(SystemExit):
            run(*words, tmp_path / "parts")
    assert (tmp_path / "parts" / "last_checkpoint").read_text() == "model_0000002.pth"

    def again(self) -> dict:
        with self.stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)

    shutil.copytree(tmp_path / "parts", tmp_path / "twice")
    with monkeypatch.context() as patch:  # and again while it is made up for
        patch.setattr(Trainer, "_evaluate", again)
        with pytest.raises(SystemExit):
            run(*words[:2], "--resume", *words[2:], tmp_path / "twice")
    for name in ("parts", "twice"):
        evaluations.clear()
        run(*words[:2], "--resume", *words[2:], tmp_path / name)
        assert evaluations == [2, 3, 4]
        assert_same(last_state(tmp_path / "straight"), last_state(tmp_path / name))
        records = [(tmp_path / part / "best_checkpoint.json").read_text() for part in ("straight", name)]
        assert records[0] == records[1]
