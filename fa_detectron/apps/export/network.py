"""The inference network as one function of one tensor, which is what torch.export and ONNX can take.

Legend: K classes, L levels, M candidates (the sum of min(topk, H_l * W_l) over the levels), D detections.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fa_detectron.layers import DeformBlock
from fa_detectron.modeling import FeatureAlign
from fa_detectron.ops.reference.grid import level_locations

from .deform import GridSampleDeformBlock, StandardDeformBlock
from .padding import is_same_padding, with_fixed_padding

# (boxes (M, 4), scores (M,), classes (M,), IoU threshold, most detections) -> indices (D,), best score first.
NmsFunction = Callable[[Tensor, Tensor, Tensor, float, int], Tensor]


class InferenceNetwork(nn.Module):
    """Normalisation, padding, backbone, head, decoding and, with ``nms``, class-wise NMS for one image.

    Shares the parameters of ``model``, whose results it reproduces.

    Args:
        model: the detector.
        nms: takes the best detections; None leaves that, and the score threshold, to the caller.
        decompose: the De-Subnet's deformable convs by grid sampling, for runtimes that lack the operator.
    """

    def __init__(self, model: FeatureAlign, *, nms: NmsFunction | None, decompose: bool) -> None:
        super().__init__()
        block = GridSampleDeformBlock if decompose else StandardDeformBlock
        self.backbone, self.head = replaced(model.backbone, block), replaced(model.head, block)
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.in_features = model.in_features
        self.location_offset = model.location_offset
        self.options = model.decode_options
        self.nms = nms
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``image``: (1, 3, H, W) float32, 0..255, channels in the order of the config's INPUT.FORMAT.

        Returns:
            Boxes xyxy in pixels of ``image``, not clipped, scores, classes (int64). With NMS the detections (D, 4),
            (D,), (D,), best first; without it the candidates (M, 4), (M,), (M,), level by level, best first.
        """
        canvas, padding_mask = self.pad((image - self.pixel_mean) / self.pixel_std)
        features = self.backbone(canvas, padding_mask)
        boxes, scores, classes = self.candidates(*self.head([features[name] for name in self.in_features]))
        if self.nms is None:
            return boxes, scores, classes
        good = (scores > self.options["score_threshold"]).nonzero().squeeze(1)
        boxes, scores, classes = boxes[good], scores[good], classes[good]
        keep = self.nms(boxes, scores, classes, self.options["nms_threshold"], self.options["max_detections"])
        return boxes[keep], scores[keep], classes[keep]

    def pad(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The image on a canvas that the backbone's strides divide, and the mask (1, H, W), true on padding."""
        height, width = image.shape[-2:]
        step = max(1, self.backbone.size_divisibility)
        canvas_height, canvas_width = (height + step - 1) // step * step, (width + step - 1) // step * step
        below = torch.arange(canvas_height, device=image.device) >= height  # (H,)
        beside = torch.arange(canvas_width, device=image.device) >= width  # (W,)
        canvas = F.pad(image, (0, canvas_width - width, 0, canvas_height - height))
        return canvas, (below[:, None] | beside[None, :])[None]

    def candidates(
        self, cls_logits: list[Tensor], box_ltrb: list[Tensor], obj_logits: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best (location, class) pairs a level: boxes (M, 4), scores (M,), classes (M,)."""
        levels = []
        for cls, box, obj, stride in zip(cls_logits, box_ltrb, obj_logits, self.head.strides, strict=True):
            height, width = cls.shape[-2:]
            num_classes = cls.shape[1]
            locations = level_locations(height, width, stride, self.location_offset, cls)  # (H*W, 2)
            ltrb = box[0].flatten(1).transpose(0, 1)  # (H*W, 4)
            scores = (cls[0].sigmoid() * obj[0].sigmoid()).flatten(1).transpose(0, 1)  # (H*W, K)
            cells, topk = height * width, self.options["topk"]
            # A symbolic minimum for a dynamic size: min() would fix which of the two it is.
            count = torch.sym_min(topk, cells) if isinstance(cells, torch.SymInt) else min(topk, cells)
            best = scores.reshape(-1).topk(count)
            place, label = best.indices // num_classes, best.indices % num_classes
            centre, sides = locations[place], ltrb[place]
            levels.append((torch.cat([centre - sides[:, :2], centre + sides[:, 2:]], dim=1), best.values, label))
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*levels, strict=True))
        return boxes, scores, classes


def replaced(module: nn.Module, block: type[StandardDeformBlock]) -> nn.Module:
    """A copy with the same parameters, its deformable blocks of the class ``block``, its SAME paddings constant."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    module = copy.deepcopy(module, shared)  # the parameters themselves are not copied
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, DeformBlock):
                setattr(parent, name, block.like(child))
            elif is_same_padding(child):
                setattr(parent, name, with_fixed_padding(child))
    return module
