"""mmdetection's AutoAssign for the tests: its names, and its formulas written down once more over a state dict."""

import torch
import torch.nn.functional as F
import torchvision

from fa_detectron.checkpoint.convert_mmdet import _CAFFE

STRIDES = (8, 16, 32, 64, 128)
PRIORS = ("bbox_head.center_prior.mean", "bbox_head.center_prior.sigma")
CAFFE_KEYS = set(_CAFFE)


def state_dict(depth: int = 18, channels: int = 64, convs: int = 1, classes: int = 3, meta: bool = False):
    """All names of a ResNet of that depth, FPN and AutoAssignHead, with random values (or none, on the meta device)."""
    with torch.device("meta" if meta else "cpu"):
        torch.manual_seed(0)
        resnet = getattr(torchvision.models, f"resnet{depth}")(weights=None)  # of the same names as mmdetection's
        state = {f"backbone.{k}": v for k, v in resnet.state_dict().items() if not k.startswith("fc.")}
        c3, c4, c5 = (128, 256, 512) if depth < 50 else (512, 1024, 2048)

        def conv(name, out, into, size):
            state[f"{name}.weight"] = torch.randn(out, into, size, size) * 0.1
            state[f"{name}.bias"] = torch.randn(out) * 0.1

        for i, width in enumerate((c3, c4, c5)):
            conv(f"neck.lateral_convs.{i}.conv", channels, width, 1)
            conv(f"neck.fpn_convs.{i}.conv", channels, channels, 3)
        conv("neck.fpn_convs.3.conv", channels, c5, 3)
        conv("neck.fpn_convs.4.conv", channels, channels, 3)
        for kind in ("cls_convs", "reg_convs"):
            for i in range(convs):
                conv(f"bbox_head.{kind}.{i}.conv", channels, channels, 3)
                state[f"bbox_head.{kind}.{i}.gn.weight"] = torch.rand(channels) + 0.5
                state[f"bbox_head.{kind}.{i}.gn.bias"] = torch.randn(channels)
        for name, out in (("conv_cls", classes), ("conv_reg", 4), ("conv_centerness", 1)):
            conv(f"bbox_head.{name}", out, channels, 3)
        for i in range(5):
            state[f"bbox_head.scales.{i}.scale"] = torch.rand(()) + 0.5
        state[PRIORS[0]], state[PRIORS[1]] = torch.randn(classes, 2), torch.rand(classes, 2) + 0.5
    for name, value in state.items():
        if name.endswith("running_var") and not meta:
            value.uniform_(0.5, 2.0)
        if name.endswith("running_mean") and not meta:
            value.normal_(0, 0.1)
    return state


def _conv(state, name, x, **options):
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2, **options)


def resnet_maps(state, images, depth: int = 18):
    """C3, C4, C5 of torchvision's network, which is mmdetection's of pytorch style."""
    net = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    net.load_state_dict({**net.state_dict(), **own})
    x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))
    c3 = net.layer2(x)
    c4 = net.layer3(c3)
    return [c3, c4, net.layer4(c4)]


def fpn_maps(state, maps):
    """P3 to P7 of mmdetection's FPN with add_extra_convs=True (on the input) and relu_before_extra_convs."""
    sides = [_conv(state, f"neck.lateral_convs.{i}.conv", x) for i, x in enumerate(maps)]
    for i in (1, 0):
        sides[i] = sides[i] + F.interpolate(sides[i + 1], size=sides[i].shape[2:], mode="nearest")
    outputs = [_conv(state, f"neck.fpn_convs.{i}.conv", x) for i, x in enumerate(sides)]
    outputs.append(_conv(state, "neck.fpn_convs.3.conv", maps[-1], stride=2))
    outputs.append(_conv(state, "neck.fpn_convs.4.conv", F.relu(outputs[-1]), stride=2))
    return outputs


def head_maps(state, maps):
    """Class logits, distances in pixels, centerness logits of mmdetection's AutoAssignHead, a level each."""
    convs = len({k.split(".")[2] for k in state if k.startswith("bbox_head.cls_convs.")})
    results = []
    for level, (x, stride) in enumerate(zip(maps, STRIDES)):
        features = {}
        for kind in ("cls_convs", "reg_convs"):
            y = x
            for i in range(convs):
                name = f"bbox_head.{kind}.{i}"
                y = _conv(state, f"{name}.conv", y)
                y = F.relu(F.group_norm(y, 32, state[f"{name}.gn.weight"], state[f"{name}.gn.bias"], eps=1e-5))
            features[kind] = y
        distance = _conv(state, "bbox_head.conv_reg", features["reg_convs"]) * state[f"bbox_head.scales.{level}.scale"]
        results.append(
            (
                _conv(state, "bbox_head.conv_cls", features["cls_convs"]),
                F.relu(distance) * stride,
                _conv(state, "bbox_head.conv_centerness", features["reg_convs"]),
            )
        )
    return [list(part) for part in zip(*results)]


def center_prior(state, point, box, label, stride):
    """The weight of one location (x, y) for one box (x1, y1, x2, y2)."""
    mean, sigma = state[PRIORS[0]][label], state[PRIORS[1]][label]
    centre = torch.tensor([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    distance = ((torch.tensor(point) - centre) / stride - mean) ** 2
    return torch.exp(-distance / (2 * sigma**2)).prod()
