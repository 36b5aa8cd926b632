"""A run's folder is all it takes, and what is wrong with one is said in words."""

import shutil

import pytest
import torch
import yaml

from fa_detectron.errors import UserError
from fa_detectron.inference import choose_device, find_weights, load_run
from tests.inference.conftest import CLASSES


@pytest.fixture
def moved(trained, tmp_path):
    """The run's config and weights alone, at another place."""
    folder = tmp_path / "moved"
    folder.mkdir()
    for name in ("config.yaml", "model_final.pth"):
        shutil.copy(trained.folder / name, folder)
    return folder


def edit(folder, change):
    path = folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_a_moved_run_without_its_data_is_enough(moved):
    run = load_run(moved, device="cpu")
    assert run.class_names == CLASSES
    assert run.category_ids == (1, 2)
    assert run.cfg.OUTPUT_DIR == str(moved)
    assert not run.model.training
    saved = torch.load(moved / "model_final.pth", weights_only=True)["model"]
    assert torch.equal(run.model.state_dict()["mu"], saved["mu"])


def test_category_ids_are_those_of_a_set_that_detectron2_knows(moved):
    names = [str(i) for i in range(80)]

    def as_coco(content):
        content["DATASETS"].update(TRAIN=["coco_2017_train"], TRAIN_PATH="", CLASS_NAMES=names)
        content["MODEL"]["FEATURE_ALIGN"]["NUM_CLASSES"] = 80

    edit(moved, as_coco)
    with pytest.raises(UserError, match="the file has 2 classes, the config 80"):
        load_run(moved, device="cpu")
    (moved / "model_final.pth").unlink()
    from fa_detectron.engine import Trainer, load_config

    model = Trainer.build_model(load_config(str(moved / "config.yaml"), ["MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, moved / "model_best.pth")
    run = load_run(moved, device="cpu")
    assert run.category_ids[0] == 1 and run.category_ids[79] == 90


def test_weights_final_then_best_then_last(tmp_path):
    with pytest.raises(UserError, match="no weights in it"):
        find_weights(str(tmp_path))
    (tmp_path / "model_0000009.pth").touch()
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert find_weights(str(tmp_path)) == str(tmp_path / "model_0000009.pth")
    (tmp_path / "model_best.pth").touch()
    assert find_weights(str(tmp_path)) == str(tmp_path / "model_best.pth")
    (tmp_path / "model_final.pth").touch()
    assert find_weights(str(tmp_path)) == str(tmp_path / "model_final.pth")


def test_last_checkpoint_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "outside.pth").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("../outside.pth")
    with pytest.raises(UserError, match="no weights in it"):
        find_weights(str(tmp_path / "run"))


def test_no_folder_and_no_run_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"it has no config\.yaml"):
        load_run(tmp_path)


def test_weights_of_another_model_are_refused(moved):
    edit(moved, lambda content: content["MODEL"]["FEATURE_ALIGN"].update(DE_SUBNET=True))
    with pytest.raises(UserError, match=r"model_final\.pth.*of another model than the config"):
        load_run(moved, device="cpu")


def test_weights_of_a_run_with_other_classes_are_refused(trained, moved):
    edit(moved, lambda content: content["DATASETS"].update(CLASS_NAMES=["cone", "block"]))  # as many, in another order
    with pytest.raises(UserError, match=r"model_final\.pth: of another run, with the classes cone, block; those of"):
        load_run(trained.folder, weights=str(moved / "model_final.pth"), device="cpu")
    edit(moved, lambda content: content["DATASETS"].update(CLASS_NAMES=list(CLASSES)))
    assert load_run(trained.folder, weights=str(moved / "model_final.pth"), device="cpu").class_names == CLASSES


def test_damaged_weights_are_named(moved):
    whole = (moved / "model_final.pth").read_bytes()
    (moved / "model_final.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model_final\.pth: not a readable checkpoint"):
        load_run(moved, device="cpu")


def test_class_names_that_do_not_fit_are_refused(moved):
    edit(moved, lambda content: content["DATASETS"].update(CLASS_NAMES=["block"]))
    with pytest.raises(UserError, match="NUM_CLASSES is 2, but there are 1"):
        load_run(moved, device="cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99"])
def test_impossible_devices_are_refused(name):
    with pytest.raises(UserError, match=f"device '{name}'"):
        choose_device(name)
