"""Processes with a share of the batch each are one process with the whole batch; four stand for four GPUs as well as
for two machines with two each. What is not mathematics, starting and dying, is tested in test_launch.py."""

import json
import os
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances
from torch.nn.parallel import DistributedDataParallel

from fa_detectron import add_feature_align_config
from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import Trainer, evaluate, launch, setup
from fa_detectron.engine.run.signals import StopSignals
from fa_detectron.engine.step import StepTrainer
from fa_detectron.modeling import FeatureAlign
from tests.engine.processes import START, free_port
from tests.engine.tiny import make_config, make_set

METHODS = ("FeatureAlign", "AutoAssign")
SIZE = (64, 96)  # one canvas
BOXES = {
    "equal": [[[8, 8, 40, 48]], [[30, 10, 90, 60]], [[0, 0, 20, 30]], [[50, 20, 70, 40]]],
    "unequal": [[[8, 8, 40, 48], [30, 10, 90, 60], [0, 0, 20, 30]], [[4, 4, 60, 60]], [], [[50, 20, 70, 40]]],
    "one box": [[], [], [[8, 8, 40, 48]], []],
    "no box": [[], [], [], []],
}


def build_model(method: str, num_convs: int = 1, **options: Any) -> FeatureAlign:
    """``options`` go to the detector beside what the config says."""
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_feature_align_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    parts = cfg.MODEL.FEATURE_ALIGN
    parts.NUM_CLASSES, parts.NUM_CONVS = 3, num_convs
    parts.FEATURE_FILTER = parts.MDQ = parts.DE_SUBNET = method == "FeatureAlign"
    parts.GLOBAL_ATTENTION.ENABLED = method == "FeatureAlign"
    parts.GLOBAL_ATTENTION.NUM_LAYERS, parts.GLOBAL_ATTENTION.DROPOUT = 1, 0.0
    torch.manual_seed(0)
    model = FeatureAlign(**FeatureAlign.from_config(cfg) | options).train()
    with torch.no_grad():  # from the published start, most gradients are too small to compare
        for name, parameter in model.named_parameters():
            if name.startswith("head.") and name.endswith("weight") and parameter.dim() == 4:
                parameter.mul_(5)
        model.mu.normal_(0, 0.1)
    return model


def build_batch(case: str) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    batch = []
    for index, boxes in enumerate(BOXES[case]):
        instances = Instances(SIZE)
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.gt_classes = (torch.arange(len(boxes)) + index) % 3
        image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        record = {"file_name": f"{index}.png", "height": SIZE[0], "width": SIZE[1]}
        batch.append({"image": image, "instances": instances, **record})
    return batch


def step(model: torch.nn.Module, batches: list[list[dict]]) -> tuple[dict, dict]:
    """The mean losses, and the gradient of every trained parameter by name."""
    trainer = StepTrainer(model, torch.optim.SGD(model.parameters()), seed=0, stop=StopSignals())
    losses = trainer.gradients(batches)
    inner = getattr(model, "module", model)
    gradients = {name: p.grad.clone() for name, p in inner.named_parameters() if p.requires_grad}
    return {name: sum(x[name] for x in losses) / len(losses) for name in losses[0]}, gradients


def share(index: int, world: int, port: int, parts: int, folder: str) -> None:
    """What one of ``world`` processes does with its part of the four images, in ``parts`` batches."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    size = 4 // (world * parts)
    for method in METHODS:
        for case in BOXES:
            model = DistributedDataParallel(build_model(method).double(), broadcast_buffers=False)
            images = build_batch(case)[index * size * parts : (index + 1) * size * parts]
            batches = [images[i : i + size] for i in range(0, len(images), size)]
            torch.save(step(model, batches), f"{folder}/{method} {case} {index}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[(2, 1), (4, 1), (2, 2)], ids=["2", "4", "2 accumulate 2"])
def shares(request, tmp_path_factory) -> tuple[int, str]:
    """Number of processes, and the folder of what they computed, all cases in one start."""
    world, parts = request.param
    folder = str(tmp_path_factory.mktemp("shares"))
    mp.start_processes(share, (world, free_port(), parts, folder), nprocs=world, start_method=START)
    return world, folder


@pytest.fixture(scope="module")
def whole() -> dict:
    cases = [(method, case) for method in METHODS for case in BOXES]
    return {(method, case): step(build_model(method).double(), [build_batch(case)]) for method, case in cases}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", list(BOXES))
def test_the_shares_are_one_whole(shares, whole, method, case):
    world, folder = shares
    losses, gradients = whole[method, case]
    found = [torch.load(f"{folder}/{method} {case} {index}.pt") for index in range(world)]
    for name, loss in losses.items():
        assert sum(part[0][name] for part in found) / world == pytest.approx(loss, rel=1e-6, abs=1e-9)
    assert gradients.keys() == found[0][1].keys()
    for name, gradient in gradients.items():
        assert all(torch.equal(part[1][name], found[0][1][name]) for part in found), name
        scale = gradient.abs().max().item()
        torch.testing.assert_close(found[0][1][name], gradient, rtol=0, atol=1e-6 * scale + 1e-15, msg=name)
    if case != "no box":
        assert all(gradients[name].abs().max() > 0 for name in ("head.cls_score.weight", "mu", "sigma"))


def evaluation(index: int, world: int, port: int, words: list[str]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE=str(world))
    os.environ.update(LOCAL_RANK=str(index), LOCAL_WORLD_SIZE=str(world))
    args = argument_parser().parse_args(words)
    launch(lambda args, cfg: evaluate(cfg), args, setup(args))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("images", [5, 3])
def test_evaluation_neither_loses_nor_doubles_an_image(tmp_path, images, world):
    """Five images for two and four processes, and three, so that one has none."""
    data, config = make_set(tmp_path / "data", images=images), make_config(tmp_path)
    words = ["--config-file", str(config), "--train", str(data), "--val", str(data), "--eval-only"]
    model = Trainer.build_model(setup(argument_parser().parse_args([*words, "MODEL.WEIGHTS", "random"])))
    with torch.no_grad():
        torch.nn.init.zeros_(model.head.cls_score.bias)  # detections of every image
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    found = []
    for processes in (1, world):
        folder = tmp_path / str(processes)
        line = [*words, "MODEL.WEIGHTS", str(tmp_path / "weights.pth"), "OUTPUT_DIR", str(folder)]
        mp.start_processes(evaluation, (processes, free_port(), line), nprocs=processes, start_method=START)
        rows = json.loads((folder / "eval" / "data-set" / "inference" / "coco_instances_results.json").read_text())
        found.append(sorted(rows, key=lambda row: (row["image_id"], -row["score"], row["bbox"])))
    assert {row["image_id"] for row in found[0]} == set(range(images))
    assert found[0] == found[1]
