"""What a checkpoint file may be, what it must fit, and what is left of an interrupted write."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write


class Model(nn.Module):
    def __init__(self, classes: int = 3, levels: int = 2, extra: bool = False):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
        if extra:
            self.backbone.attention = nn.Linear(4, 4)
        self.head = nn.Module()
        self.head.cls_score = nn.Conv2d(4, classes, 3)
        self.mu, self.sigma = (
            nn.Parameter(torch.zeros(levels, classes, 2)),
            nn.Parameter(torch.ones(levels, classes, 2)),
        )


class State:
    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def saved(folder, model, name="a.pth", **extra):
    torch.save({"model": model.state_dict(), **extra}, folder / name)
    return str(folder / name)


def test_a_saved_model_and_its_state_come_back(tmp_path):
    model = Model()
    FeatureAlignCheckpointer(model, str(tmp_path), trainer=State(5)).save("model_0000004", iteration=4)
    other, state = Model(), State()
    rest = FeatureAlignCheckpointer(other, str(tmp_path), trainer=state).resume_or_load("", resume=True)
    assert rest["iteration"] == 4 and state.value == 5
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_resuming_needs_the_state_and_the_file(tmp_path):
    model = Model()
    FeatureAlignCheckpointer(model, str(tmp_path)).save("model_final")
    with pytest.raises(UserError, match="holds no state of trainer"):
        FeatureAlignCheckpointer(model, str(tmp_path), trainer=State()).resume_or_load("", resume=True)
    (tmp_path / "model_final.pth").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole.*model_final\.pth: it is not there"):
        FeatureAlignCheckpointer(model, str(tmp_path), trainer=State()).resume_or_load("", resume=True)


def test_resuming_where_there_is_nothing_starts_from_the_weights(tmp_path):
    source, model, state = Model(), Model(), State(1)
    path = saved(tmp_path, source, trainer={"value": 9})
    FeatureAlignCheckpointer(model, str(tmp_path / "new"), trainer=state).resume_or_load(path, resume=True)
    assert torch.equal(model.head.cls_score.weight, source.head.cls_score.weight) and state.value == 1


def test_another_class_count_is_refused_in_evaluation_and_named_in_training(tmp_path, caplog):
    path = saved(tmp_path, Model(classes=80))
    model = Model(classes=3)
    with pytest.raises(UserError) as error:
        FeatureAlignCheckpointer(model).load(path, strict=True)
    for text in (
        "a.pth",
        "80 classes, the config 3",
        "head.cls_score.weight is (80, 4, 3, 3) in the file, (3, 4, 3, 3)",
    ):
        assert text in str(error.value)
    source = torch.load(path, weights_only=True)["model"]
    checkpointer = FeatureAlignCheckpointer(model)
    with caplog.at_level("INFO", logger="fa_detectron.checkpoint.fit"):
        import logging

        logging.getLogger("fa_detectron").propagate = True
        checkpointer.load(path)
    assert torch.equal(model.backbone.stem[0].weight, source["backbone.stem.0.weight"])
    assert "6 of the model's 10 tensors are in the file" in caplog.text and "mu is (2, 80, 2)" in caplog.text


@pytest.mark.parametrize("file_has_more", [True, False])
def test_another_variant_is_refused_in_evaluation(tmp_path, file_has_more):
    path = saved(tmp_path, Model(extra=file_has_more))
    with pytest.raises(UserError, match=r"backbone\.attention\.weight"):
        FeatureAlignCheckpointer(Model(extra=not file_has_more)).load(path, strict=True)
    FeatureAlignCheckpointer(Model(extra=not file_has_more)).load(path)


def test_another_architecture_is_refused_always(tmp_path):
    torch.save({"model": {"layer.weight": torch.zeros(3), "mu": torch.zeros(2, 3, 2)}}, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=r"1 of the model's 10 tensors are in the file.*2 tensors\)|another architecture"
    ):
        FeatureAlignCheckpointer(Model()).load(str(tmp_path / "a.pth"), strict=True)
    torch.save({"a.weight": torch.zeros(3), "b": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"0 of the model's 10 tensors.*another architecture.*a\.weight"):
        FeatureAlignCheckpointer(Model()).load(str(tmp_path / "b.pth"))


def test_zoo_pickles_load(tmp_path):
    weights = {key: value.numpy() for key, value in Model().state_dict().items()}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}))
    model = Model()
    FeatureAlignCheckpointer(model).load(str(tmp_path / "zoo.pkl"))
    np.testing.assert_array_equal(model.head.cls_score.weight.detach().numpy(), weights["head.cls_score.weight"])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("name", ["evil.pth", "evil.pkl"])
def test_files_run_no_code(tmp_path, name):
    trap = tmp_path / "trap"
    content = {"model": {"a": Evil(str(trap))}}
    if name.endswith(".pth"):
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"{name}: refused.*open"):
        FeatureAlignCheckpointer(Model()).load(str(tmp_path / name))
    assert not trap.exists()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "not a readable checkpoint"),
        (b"no checkpoint at all", "refused|not a readable"),
        ([1, 2], "expected a dict of tensors, found list"),
        ({"model": {"a": "text"}}, "'a' is not a tensor but str"),
        ({"model": {3: torch.zeros(1)}}, "3 is not the name of a tensor"),
        ({"model": {"a": torch.ones(3).to_sparse()}}, "'a' is no plain tensor of numbers"),
        ({"model": {"a": torch.ones(3, device="meta")}}, "'a' is no plain tensor of numbers"),
        ({"model": {"mu": torch.zeros(2)}}, "of another architecture"),
        ({"model": [1]}, "'model' is not a dict of tensors but list"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=rf"broken\.pth.*({message})"):
        FeatureAlignCheckpointer(Model()).load(str(path))


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = saved(tmp_path, Model())
    whole = open(path, "rb").read()
    open(path, "wb").write(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.pth: not a readable checkpoint"):
        FeatureAlignCheckpointer(Model()).load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pth: no such file"):
        FeatureAlignCheckpointer(Model()).load(str(tmp_path / "gone.pth"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(str(path)) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]
