"""The schemas of all operators under ``torch.ops.fa_detectron``, defined here alone.

``library.py`` registers them. csrc/build.py compiles a digest of them into the extension, so that an extension that was
built for other schemas is recognised and not loaded. This file imports nothing: the build reads it.
"""

import hashlib

SCHEMAS = (
    # Shapes: input (N, C, H, W), weight (O, C / groups, kh, kw), offset (N, 2*D*kh*kw, Ho, Wo) as (dy, dx) pairs in
    # pixels, mask (N, D*kh*kw, Ho, Wo), bias (O,), D offset groups; returns (N, O, Ho, Wo).
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor? mask, Tensor? bias, SymInt[2] stride, "
    "SymInt[2] padding, SymInt[2] dilation) -> Tensor",
    # The gradients of input, weight, offset, mask and bias; those not needed have no elements.
    "deform_conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor offset, Tensor? mask, "
    "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, bool[5] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    # The De-Subnet's form, all levels at once, stride 1, padding 1. Per level: inputs (N, C, H, W), offset_masks
    # (N, 27, H, W) of 18 offsets and 9 mask logits; weight (O, C, 3, 3), bias (O,). Returns (N, O, H, W) per level.
    "deform_conv2d_levels(Tensor[] inputs, Tensor[] offset_masks, Tensor weight, Tensor? bias) -> Tensor[]",
    # The gradients of inputs, offset_masks (L each), weight and bias; those not needed have no elements.
    "deform_conv2d_levels_backward(Tensor[] grad_outputs, Tensor[] inputs, Tensor[] offset_masks, Tensor weight, "
    "bool[4] needed) -> Tensor[]",
    # The quality-weighted loss. Per level: cls_logits (N, K, H, W), box_ltrb (N, 4, H, W) pixels, obj_logits
    # (N, 1, H, W); per image: gt_boxes (G, 4) xyxy pixels, gt_classes (G,) int64; mu, sigma (L, K, 2) or (K, 2).
    # Returns what the losses need of each box (sum of G, 9; float64), the largest IoU of each inside location with any
    # box (N, A), and num_background, the sum of the Gaussians over inside pairs (float64): the all-reduce stands here.
    "quality_statistics(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] gt_boxes, "
    "Tensor[] gt_classes, Tensor mu, Tensor sigma, float[] strides, float location_offset, bool feature_filter, "
    "bool quality_prior, float reg_weight, str iou_type) -> (Tensor, Tensor, Tensor)",
    # divisors (2,) float64, of the foreground and the background loss. Returns loss_pos, loss_neg, loss_norm: (3,).
    "quality_loss(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] gt_boxes, "
    "Tensor[] gt_classes, Tensor mu, Tensor sigma, Tensor statistics, Tensor max_iou, Tensor divisors, "
    "float[] strides, float location_offset, bool feature_filter, bool quality_prior, float reg_weight, str iou_type, "
    "float focal_alpha, float focal_gamma) -> Tensor",
    # The same values. with_gradient (CPU only): also the gradients of loss_neg by cls_logits and by
    # sigmoid(obj_logits), L each, which spare backward the pass over all classes; else two empty lists.
    "quality_loss_forward(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] gt_boxes, "
    "Tensor[] gt_classes, Tensor mu, Tensor sigma, Tensor statistics, Tensor max_iou, Tensor divisors, "
    "float[] strides, float location_offset, bool feature_filter, bool quality_prior, float reg_weight, str iou_type, "
    "float focal_alpha, float focal_gamma, bool with_gradient) -> (Tensor, Tensor[], Tensor[])",
    # Writes all gradients (of the inputs' shapes, contiguous, on CUDA also channels_last). hold_negative: grad_cls and
    # grad_obj hold what quality_loss_forward returned for them, else anything.
    "quality_loss_backward(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] gt_boxes, "
    "Tensor[] gt_classes, Tensor mu, Tensor sigma, Tensor statistics, Tensor max_iou, Tensor divisors, "
    "float[] strides, float location_offset, bool feature_filter, bool quality_prior, float reg_weight, str iou_type, "
    "float focal_alpha, float focal_gamma, Tensor grad_losses, Tensor(a!)[] grad_cls, Tensor(b!)[] grad_box, "
    "Tensor(c!)[] grad_obj, Tensor(d!) grad_mu, Tensor(e!) grad_sigma, bool hold_negative) -> ()",
    # Detections of N images, best first, D the most there can be: boxes (N, D, 4) xyxy pixels, scores (N, D), classes
    # (N, D) int64, and how many of each image's D are found, (N,) int64; zeros behind them. Maps as for the loss.
    "decode_detections(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, float[] strides, "
    "float location_offset, float score_threshold, int topk, float nms_threshold, int max_detections) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)


def digest() -> str:
    return hashlib.sha256("\n".join(SCHEMAS).encode()).hexdigest()[:16]
