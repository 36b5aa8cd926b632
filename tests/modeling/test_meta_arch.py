"""The detector as a whole: parts and switches, published names, training and inference on small inputs."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fa_detectron import add_feature_align_config
from fa_detectron.engine.solver import build_optimizer
from fa_detectron.errors import UserError
from tests.golden import load_golden

NUM_CLASSES = 3


def make_model(**switches):
    """A ResNet-18 detector with narrow maps; ``switches`` are keys of MODEL.FEATURE_ALIGN."""
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "FeatureAlign"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_feature_align_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 64  # two a group: GroupNorm needs more than one value, and P7 is 1x1
    cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES = NUM_CLASSES
    cfg.MODEL.FEATURE_ALIGN.NUM_CONVS = 2
    attention = cfg.MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION
    attention.DIM_FEEDFORWARD, attention.NUM_LAYERS = 32, 1
    attention.ENABLED = switches.pop("GLOBAL_ATTENTION", False)
    for key, value in switches.items():
        cfg.MODEL.FEATURE_ALIGN[key] = value
    torch.manual_seed(0)
    return build_model(cfg), cfg


def make_input(height=64, width=96, boxes=((8.0, 8.0, 56.0, 48.0), (30.0, 10.0, 90.0, 60.0)), seed=0):
    truth = Instances((height, width))
    truth.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    truth.gt_classes = torch.arange(len(boxes)) % NUM_CLASSES
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator).byte(), "instances": truth}


ALL_PARTS = {"DE_SUBNET": True, "FEATURE_FILTER": True, "MDQ": True, "GLOBAL_ATTENTION": True}


def test_each_part_is_its_own_switch():
    plain, _ = make_model()
    assert tuple(plain.mu.shape) == (NUM_CLASSES, 2)
    names = set(plain.state_dict())
    assert {"mu", "sigma", "backbone.bottom_up.stem.conv1.weight", "backbone.fpn_lateral3.weight"} <= names
    assert {"backbone.top_block.p6.weight", "head.cls_subnet.3.weight", "head.scales.4.scale"} <= names
    assert not any("global_attention" in name or "offset" in name for name in names)

    model, _ = make_model(MDQ=True)
    assert tuple(model.sigma.shape) == (5, NUM_CLASSES, 2)
    model, _ = make_model(DE_SUBNET=True)
    assert "head.cls_subnet.3.offset.weight" in model.state_dict()
    model, _ = make_model(GLOBAL_ATTENTION=True)
    assert "backbone.global_attention.layers.0.self_attn.in_proj_weight" in model.state_dict()

    torch.manual_seed(0)
    losses = {}
    for filtered in (False, True):
        model, _ = make_model(FEATURE_FILTER=filtered)
        losses[filtered] = model.train()([make_input()])["loss_pos"].item()
    assert losses[False] != losses[True]


@pytest.mark.parametrize("parts", [{}, ALL_PARTS], ids=["AutoAssign", "FeatureAlign-dagger"])
def test_every_parameter_learns(parts):
    model, _ = make_model(**parts)
    large = make_input(160, 192, boxes=((8.0, 8.0, 180.0, 150.0),), seed=1)  # holds a location of every level
    losses = model.train()([make_input(), large])
    assert set(losses) == {"loss_pos", "loss_neg", "loss_norm"}
    sum(losses.values()).backward()
    # No exception, not even for the offset convs of a fresh head.
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_the_quality_distributions_are_trained_saved_and_not_decayed():
    """The published code kept them out of the optimizer and of the checkpoint (method section 7)."""
    model, cfg = make_model(**ALL_PARTS)
    assert {"mu", "sigma"} <= set(model.state_dict())
    groups = build_optimizer(cfg, model).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(model.mu)] == decay[id(model.sigma)] == 0
    sum(model.train()([make_input()]).values()).backward()
    assert model.mu.grad.abs().sum() > 0 and model.sigma.grad.abs().sum() > 0


def test_the_priors_stay_fixed_where_asked_to():
    model, cfg = make_model(**{**ALL_PARTS, "TRAIN_PRIORS": False})
    optimizer = build_optimizer(cfg, model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    sum(model.train()([make_input()]).values()).backward()
    optimizer.step()
    assert {"mu", "sigma"} <= set(model.state_dict())
    assert torch.equal(model.mu, torch.zeros_like(model.mu)) and torch.equal(model.sigma, torch.ones_like(model.sigma))
    assert not torch.equal(model.head.bbox_pred.weight, before["head.bbox_pred.weight"])


def test_with_fixed_priors_mdq_changes_no_gradient():
    """The prior term has none, and one Gaussian a level is the same as one for all (docs/published_code.md)."""
    gradients = []
    for mdq in (False, True):
        model, _ = make_model(FEATURE_FILTER=True, MDQ=mdq, TRAIN_PRIORS=False)
        sum(model.train()([make_input()]).values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]["head.bbox_pred.weight"].any()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("sigma", [0.0, -1.0, 1e-9])
def test_any_sigma_gives_finite_losses(sigma):
    model, _ = make_model(**ALL_PARTS)
    with torch.no_grad():
        model.sigma.fill_(sigma)
    losses = model.train()([make_input()])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(model.sigma.grad).all()


def test_a_batch_without_any_box():
    model, _ = make_model(**ALL_PARTS)
    losses = model.train()([make_input(boxes=()), make_input(boxes=(), seed=1)])
    sum(losses.values()).backward()
    assert losses["loss_pos"].item() == 0 and losses["loss_norm"].item() == 0
    assert losses["loss_neg"].item() > 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_inference_scales_to_the_wanted_size_and_clips():
    model, _ = make_model(**ALL_PARTS)
    with torch.no_grad():
        model.head.cls_score.bias.fill_(2.0)  # a fresh detector finds nothing above the threshold
    model.eval()
    small = {**make_input(), "height": 128, "width": 192}
    with torch.no_grad():
        (wanted,), (own,) = model([small]), model([make_input()])
    found = wanted["instances"]
    assert found.image_size == (128, 192) and 0 < len(found) <= 100
    box = found.pred_boxes.tensor
    assert (box >= 0).all() and (box[:, 2] <= 192).all() and (box[:, 3] <= 128).all()
    assert (found.scores.diff() <= 0).all()
    torch.testing.assert_close(box, own["instances"].pred_boxes.tensor * 2)


def test_padding_of_the_canvas_reaches_global_attention():
    """An image alone and beside a larger one: only the mask keeps the attention of its cells the same."""
    model, _ = make_model(GLOBAL_ATTENTION=True)
    model.eval()
    seen = []
    model.backbone.global_attention.register_forward_hook(lambda m, args, out: seen.append((args[1], out)))
    with torch.no_grad():
        model([make_input(64, 64)])
        model([make_input(64, 64), make_input(128, 160, seed=1)])
    (alone_mask, _), (mask, _) = seen
    assert not alone_mask.any()
    assert mask[0].sum() == mask[0].numel() - 4 and not mask[1].any()


def test_golden_head_loads_into_the_model():
    data = load_golden("head")
    model, _ = make_model(DE_SUBNET=True, NUM_CONVS=int(data["num_convs"]), NUM_CLASSES=int(data["num_classes"]))
    prefix = "feature_align.state."
    published = {"head." + key.removeprefix(prefix) for key in data if key.startswith(prefix)}
    assert published == {name for name in model.state_dict() if name.startswith("head.")}


@pytest.mark.parametrize(
    "key, value", [("NUM_CONVS", 0), ("IN_FEATURES", ["p9"]), ("IOU_TYPE", "foo"), ("FOCAL_GAMMA", 0.5)]
)
def test_options_that_make_no_detector_are_named(key, value):
    with pytest.raises(UserError, match=f"MODEL.FEATURE_ALIGN.{key}"):
        make_model(**{key: value})
