"""The detector: FeatureAlign, FeatureAlign† and AutoAssign are one meta-architecture with parts on or off."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from fa_detectron.errors import UserError
from fa_detectron.ops import decode_detections, quality_normalizers, quality_weighted_loss

from .backbone import FeatureAlignFPN
from .config import check_options
from .head import FeatureAlignHead


@META_ARCH_REGISTRY.register()
class FeatureAlign(nn.Module):
    """ "Feature Alignment in Anchor-Free Object Detection" (TCSVT 2023); all parts off: AutoAssign (arXiv 2007.03496).

    The Gaussian priors ``mu`` and ``sigma`` are parameters: (K, 2), or (L, K, 2) with one row a level (MDQ).
    Legend: N images, L levels, K classes, H x W the batch's canvas in pixels.
    """

    pixel_mean: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: FeatureAlignFPN,
        head: FeatureAlignHead,
        in_features: list[str],
        num_classes: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        feature_filter: bool,
        mdq: bool,
        train_priors: bool = True,
        location_offset: float = 0.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        reg_weight: float = 5.0,
        iou_type: str = "giou",
        score_threshold: float = 0.05,
        topk: int = 1000,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
        channels_last: bool = False,
    ) -> None:
        """
        Args:
            in_features: the backbone's maps that the head sees, finest first.
            pixel_mean, pixel_std: of the input, a channel, in the order of the images' channels.
            channels_last: the memory format of maps and of the convolutions' weights.
            feature_filter: FF. mdq: one Gaussian a level and FeatureAlign's prior term.
            train_priors: else ``mu`` and ``sigma`` stay 0 and 1, and the prior term teaches nothing.
            The rest as in ``fa_detectron.ops.quality_weighted_loss`` and ``decode_detections``.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.in_features = in_features
        self.num_classes = num_classes
        prior_shape = (len(in_features), num_classes, 2) if mdq else (num_classes, 2)
        self.mu = nn.Parameter(torch.zeros(prior_shape), requires_grad=train_priors)
        self.sigma = nn.Parameter(torch.ones(prior_shape), requires_grad=train_priors)
        self.location_offset = location_offset
        self.loss_options: dict[str, Any] = {
            "feature_filter": feature_filter,
            "quality_prior": mdq,
            "focal_alpha": focal_alpha,
            "focal_gamma": focal_gamma,
            "reg_weight": reg_weight,
            "iou_type": iou_type,
        }
        self.decode_options: dict[str, Any] = {
            "score_threshold": score_threshold,
            "topk": topk,
            "nms_threshold": nms_threshold,
            "max_detections": max_detections,
        }
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.backbone.to(memory_format=self.memory_format)
            self.head.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        options = cfg.MODEL.FEATURE_ALIGN
        check_options(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        absent = [name for name in options.IN_FEATURES if name not in shapes]
        if absent:
            raise UserError(f"MODEL.FEATURE_ALIGN.IN_FEATURES names {absent}; the backbone gives {list(shapes)}")
        levels = [shapes[name] for name in options.IN_FEATURES]
        head = FeatureAlignHead(
            in_channels=levels[0].channels,
            num_classes=options.NUM_CLASSES,
            num_convs=options.NUM_CONVS,
            strides=[level.stride for level in levels],
            de_subnet=options.DE_SUBNET,
            prior_prob=options.PRIOR_PROB,
        )
        return {
            "backbone": backbone,
            "head": head,
            "in_features": options.IN_FEATURES,
            "num_classes": options.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "feature_filter": options.FEATURE_FILTER,
            "mdq": options.MDQ,
            "train_priors": options.TRAIN_PRIORS,
            "location_offset": options.LOCATION_OFFSET,
            "focal_alpha": options.FOCAL_ALPHA,
            "focal_gamma": options.FOCAL_GAMMA,
            "reg_weight": options.REG_WEIGHT,
            "iou_type": options.IOU_TYPE,
            "score_threshold": options.SCORE_THRESH_TEST,
            "topk": options.TOPK_CANDIDATES_TEST,
            "nms_threshold": options.NMS_THRESH_TEST,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "channels_last": cfg.MODEL.CHANNELS_LAST and cfg.MODEL.DEVICE.startswith("cuda"),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]], normalizers: tuple[Tensor, Tensor] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detectron2's format: an image each, "image" (3, h, w), "instances" in training, "height" and "width" wanted.

        Args:
            batched_inputs: the images.
            normalizers: in training on one of several batches whose gradients add up, those of :meth:`normalizers`.

        Returns:
            In training the losses "loss_pos", "loss_neg", "loss_norm" (0-dim); else, an image, {"instances":
            Instances with pred_boxes (xyxy pixels of the wanted size), scores, pred_classes}.
        """
        images = self.preprocess(batched_inputs)
        canvas = images.tensor.contiguous(memory_format=self.memory_format)
        features = self.backbone(canvas, self.padding_mask(images))
        predictions = self.head([features[name] for name in self.in_features])
        if self.training:
            return self.losses(predictions, batched_inputs, normalizers)
        return self.inference(predictions, images, batched_inputs)

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises the images and pads them at the right and at the bottom to one canvas: tensor (N, 3, H, W)."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def padding_mask(self, images: ImageList) -> Tensor:
        """(N, H, W) bool, true where the canvas is not filled by the image."""
        n, _, height, width = images.tensor.shape
        mask = torch.ones((n, height, width), dtype=torch.bool, device=images.tensor.device)
        for index, (image_height, image_width) in enumerate(images.image_sizes):
            mask[index, :image_height, :image_width] = False
        return mask

    def normalizers(self, batches: list[list[dict[str, Any]]]) -> tuple[Tensor, Tensor]:
        """The normalisers with which the mean loss of equal batches is that of all their images, on all workers."""
        truth = [x["instances"].to(self.device) for batch in batches for x in batch]
        return quality_normalizers(
            [instances.gt_boxes.tensor for instances in truth],
            [instances.gt_classes for instances in truth],
            self.mu,
            self.sigma,
            self.head.strides,
            [instances.image_size for instances in truth],
            location_offset=self.location_offset,
            parts=len(batches),
            reduce=True,
        )

    def losses(
        self,
        predictions: tuple[list[Tensor], list[Tensor], list[Tensor]],
        batched_inputs: list[dict[str, Any]],
        normalizers: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The batch's losses; the normalisers, if not given, are averaged over the workers."""
        truth = [x["instances"].to(self.device) for x in batched_inputs]
        return quality_weighted_loss(
            *predictions,
            [instances.gt_boxes.tensor for instances in truth],
            [instances.gt_classes for instances in truth],
            self.mu,
            self.sigma,
            self.head.strides,
            location_offset=self.location_offset,
            normalizers=normalizers,
            reduce=True,
            **self.loss_options,
        )

    def inference(
        self,
        predictions: tuple[list[Tensor], list[Tensor], list[Tensor]],
        images: ImageList,
        batched_inputs: list[dict[str, Any]],
    ) -> list[dict[str, Instances]]:
        """Detections, scaled to the wanted size and clipped; empty boxes are dropped."""
        detections = decode_detections(
            *predictions, self.head.strides, location_offset=self.location_offset, **self.decode_options
        )
        results = []
        for (boxes, scores, classes), size, wanted in zip(detections, images.image_sizes, batched_inputs, strict=True):
            instances = Instances(size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
            height, width = wanted.get("height", size[0]), wanted.get("width", size[1])
            results.append({"instances": detector_postprocess(instances, height, width)})
        return results
