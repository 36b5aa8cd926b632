"""Two processes with half the batch each are one process with the whole batch."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances
from torch.nn.parallel import DistributedDataParallel

from fa_detectron import add_feature_align_config
from fa_detectron.modeling import FeatureAlign

SIZE = (64, 96)  # one canvas
BOXES = {
    "equal": [[[8, 8, 40, 48]], [[30, 10, 90, 60]], [[0, 0, 20, 30]], [[50, 20, 70, 40]]],
    "unequal": [[[8, 8, 40, 48], [30, 10, 90, 60], [0, 0, 20, 30]], [[4, 4, 60, 60]], [], [[50, 20, 70, 40]]],
    "one box": [[], [], [[8, 8, 40, 48]], []],
    "no box": [[], [], [], []],
}


def build_model(method: str) -> FeatureAlign:
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_feature_align_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    options = cfg.MODEL.FEATURE_ALIGN
    options.NUM_CLASSES, options.NUM_CONVS = 3, 1
    options.FEATURE_FILTER = options.MDQ = options.DE_SUBNET = method == "FeatureAlign"
    options.GLOBAL_ATTENTION.ENABLED = method == "FeatureAlign"
    options.GLOBAL_ATTENTION.NUM_LAYERS, options.GLOBAL_ATTENTION.DROPOUT = 1, 0.0
    torch.manual_seed(0)
    model = FeatureAlign(cfg).train()
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
        batch.append({"image": image, "instances": instances, "height": SIZE[0], "width": SIZE[1]})
    return batch


def step(model: torch.nn.Module, batch: list[dict]) -> tuple[dict, dict]:
    """The losses, and the gradient of every trained parameter by name."""
    losses = model(batch)
    sum(losses.values()).backward()
    inner = getattr(model, "module", model)
    gradients = {name: p.grad.clone() for name, p in inner.named_parameters() if p.requires_grad}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for method in ("FeatureAlign", "AutoAssign"):
        for case in BOXES:
            model = DistributedDataParallel(build_model(method), broadcast_buffers=False)
            torch.save(step(model, build_batch(case)[2 * rank : 2 * rank + 2]), f"{folder}/{method} {case} {rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> str:
    """The folder of what two processes computed, all cases in one start."""
    folder = str(tmp_path_factory.mktemp("halves"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, (port, folder), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.parametrize("method", ["FeatureAlign", "AutoAssign"])
@pytest.mark.parametrize("case", list(BOXES))
def test_two_halves_are_one_whole(halves, method, case):
    losses, gradients = step(build_model(method), build_batch(case))
    (losses_0, gradients_0), (losses_1, gradients_1) = (torch.load(f"{halves}/{method} {case} {r}.pt") for r in (0, 1))
    for name, loss in losses.items():
        torch.testing.assert_close((losses_0[name] + losses_1[name]) / 2, loss, rtol=1e-5, atol=1e-7)
    assert gradients.keys() == gradients_0.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradients_0[name], gradients_1[name]), name
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients_0[name], gradient, rtol=1e-3, atol=1e-4 * scale + 1e-9, msg=name)
    if case != "no box":
        assert all(gradients[name].abs().max() > 0 for name in ("head.cls_score.weight", "mu", "sigma"))
