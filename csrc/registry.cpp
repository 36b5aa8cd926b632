// The schemas of all operators in one place, and the Python module that loads them. Implementations
// register themselves beside their code, one a device; fake kernels and autograd stand beside the
// Python wrappers.
#include <Python.h>
#include <torch/library.h>

#include <string>

#include "common/cpu_capability.h"

// Read from the file by fa_detectron.ops.native before the module is loaded: an extension built for
// another torch must be recognised without running any of its code.
extern "C" __attribute__((visibility("default"), used)) const char fa_build_info[] =
    "FA_BUILD_INFO{torch=" FA_BUILD_TORCH ";cuda=" FA_BUILD_CUDA ";archs=" FA_BUILD_ARCHS "}";

TORCH_LIBRARY(fa_detectron, m) {
  // The instruction set that the CPU kernels run with.
  m.def("cpu_capability() -> str",
        []() { return std::string(fa::capability_name(fa::cpu_capability())); });

  // Shapes: input (N,C,H,W), weight (O,C/groups,kh,kw), offset (N,2*G*kh*kw,Ho,Wo) as (dy,dx) pairs
  // in pixels, mask (N,G*kh*kw,Ho,Wo), bias (O), G offset groups; returns (N,O,Ho,Wo).
  m.def(
      "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor? mask, Tensor? bias, "
      "SymInt[2] stride, "
      "SymInt[2] padding, SymInt[2] dilation) -> Tensor");
  // Returns the gradients of input, weight, offset, mask, bias; those not needed have no elements.
  m.def(
      "deform_conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor offset, "
      "Tensor? mask, "
      "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, bool[5] needed) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");

  // The De-Subnet's form, all levels at once: inputs (N,C,H,W) and raw offset_masks (N,27,H,W) a
  // level (18 offsets, 9 mask logits), weight (O,C,3,3), bias (O), stride 1, padding 1; returns
  // (N,O,H,W) a level.
  m.def(
      "deform_conv2d_levels(Tensor[] inputs, Tensor[] offset_masks, Tensor weight, Tensor? bias) "
      "-> Tensor[]");
  // Returns the gradients of inputs, offset_masks (L each), weight, bias; those not needed have no
  // elements.
  m.def(
      "deform_conv2d_levels_backward(Tensor[] grad_outputs, Tensor[] inputs, Tensor[] "
      "offset_masks, Tensor weight, "
      "bool[4] needed) -> Tensor[]");

  // The quality-weighted loss, maps of L levels: cls_logits (N,K,H,W), box_ltrb (N,4,H,W) pixels,
  // obj_logits (N,1,H,W); ground truth of N images: gt_boxes (G,4) xyxy pixels, gt_classes (G)
  // int64; mu, sigma (L,K,2) or (K,2). Returns what the losses need of each box (sum of G, 9;
  // float64), the largest IoU of each inside location with any box (N,A), and num_background, the
  // sum of the Gaussians over inside pairs (float64): the all-reduce stands here.
  m.def(
      "quality_statistics(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] "
      "gt_boxes, "
      "Tensor[] gt_classes, Tensor mu, Tensor sigma, float[] strides, float location_offset, bool "
      "feature_filter, "
      "bool quality_prior, float reg_weight, str iou_type) -> (Tensor, Tensor, Tensor)");
  // divisors (2; float64), of the foreground and the background loss. Returns loss_pos, loss_neg,
  // loss_norm (3), with their gradients (quality_loss/autograd.cpp).
  m.def(
      "quality_loss(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] "
      "gt_boxes, Tensor[] gt_classes, Tensor mu, Tensor sigma, Tensor statistics, Tensor max_iou, "
      "Tensor divisors, float[] strides, float location_offset, bool feature_filter, bool "
      "quality_prior, float reg_weight, str iou_type, float focal_alpha, float focal_gamma) -> "
      "Tensor");
  // The same values. with_gradient (CPU only): also the gradients of loss_neg by cls_logits and by
  // sigmoid(obj_logits), L each, which spare backward the pass over all classes; else two empty
  // lists.
  m.def(
      "quality_loss_forward(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] "
      "gt_boxes, Tensor[] gt_classes, Tensor mu, Tensor sigma, Tensor statistics, Tensor max_iou, "
      "Tensor divisors, float[] strides, float location_offset, bool feature_filter, bool "
      "quality_prior, float reg_weight, str iou_type, float focal_alpha, float focal_gamma, bool "
      "with_gradient) -> (Tensor, Tensor[], Tensor[])");
  // Writes all gradients (of the inputs' shapes, contiguous, on CUDA also channels_last). Where
  // hold_negative says so, grad_cls and grad_obj hold what quality_loss_forward returned for them,
  // else anything.
  m.def(
      "quality_loss_backward(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, Tensor[] "
      "gt_boxes, Tensor[] gt_classes, Tensor mu, Tensor sigma, Tensor statistics, Tensor max_iou, "
      "Tensor divisors, float[] strides, float location_offset, bool feature_filter, bool "
      "quality_prior, float reg_weight, str iou_type, float focal_alpha, float focal_gamma, "
      "Tensor grad_losses, Tensor(a!)[] grad_cls, Tensor(b!)[] grad_box, Tensor(c!)[] grad_obj, "
      "Tensor(d!) grad_mu, Tensor(e!) grad_sigma, bool hold_negative) -> ()");

  // Detections of N images, best first, D the most there can be: boxes (N,D,4) xyxy pixels, scores
  // (N,D), classes (N,D) int64, and how many of each image's D are found (N) int64; zeros behind
  // them. Maps as above.
  m.def(
      "decode_detections(Tensor[] cls_logits, Tensor[] box_ltrb, Tensor[] obj_logits, float[] "
      "strides, "
      "float location_offset, float score_threshold, int topk, float nms_threshold, int "
      "max_detections) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

// `import fa_detectron._C` only has to load this library: the operators are in
// torch.ops.fa_detectron.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
