"""Damaged checkpoints, full disks, weights that are no numbers: the last good checkpoint is always there and found."""

import os

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.errors import UserError
from tests.checkpoint.test_checkpointer import Model, State

DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "a wrong bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "gone": lambda path: path.unlink(),
    "text": lambda path: path.write_text("not a checkpoint"),
}


def flipped(content: bytes) -> bytes:
    """One bit of a tensor, which torch.load does not notice."""
    at = content.index(np.float32(0.123).tobytes())
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_a_damaged_last_checkpoint_is_named_and_the_one_before_used(tmp_path, caplog, kind):
    model, state = Model(), State()
    torch.nn.init.constant_(model.mu, 0.123)
    for iteration in (9, 19):
        checkpointer = FeatureAlignCheckpointer(model, str(tmp_path), trainer=State(iteration))
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    DAMAGE[kind](tmp_path / "model_0000019.pth")
    again = FeatureAlignCheckpointer(Model(), str(tmp_path), trainer=state)
    with caplog.at_level("WARNING"):
        again.resume_or_load("", resume=True)
    assert state.value == 9 and again.resumed_from == str(tmp_path / "model_0000009.pth")
    assert f"{tmp_path}/model_0000019.pth is damaged" in caplog.text
    assert f"the one before is used: {tmp_path}/model_0000009.pth" in caplog.text
    DAMAGE[kind](tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole.*model_0000009\.pth: "):
        again.resume_or_load("", resume=True)


def test_a_full_disk_is_named_and_costs_no_checkpoint(tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    checkpointer = FeatureAlignCheckpointer(Model(), str(tmp_path), trainer=State(9))
    checkpointer.save("model_0000009")
    (tmp_path / f"model_0000019.pth.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"model_0000019\.pth cannot be written: .*No space left on device"):
        checkpointer.save("model_0000019")
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000009.pth", "last_checkpoint"}
    assert checkpointer.last_good().endswith("model_0000009.pth")


def test_what_is_not_on_the_disk_as_written_gets_no_name(tmp_path, monkeypatch):
    save = torch.save
    checkpointer = FeatureAlignCheckpointer(Model(), str(tmp_path), trainer=State(9))
    checkpointer.save("model_0000009")

    def half(content, file):
        save(content, file)
        file.truncate(file.tell() // 2)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match=r"model_0000019\.pth cannot be written: it is not a whole file"):
        checkpointer.save("model_0000019")
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000009.pth", "last_checkpoint"}


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    model = Model()
    torch.nn.init.constant_(model.mu, float("nan"))
    with pytest.raises(UserError, match=r"not written: mu is not finite"):
        FeatureAlignCheckpointer(model, str(tmp_path)).save("model_0000009")
    assert not list(tmp_path.iterdir())
