"""The exported program as an ONNX model. Legend: M candidates, K classes, D detections, S that NMS keeps."""

from typing import Any

import torch
from torch.export import ExportedProgram

from fa_detectron.errors import UserError

from .nms import float32_limit
from .program import first_line, quiet

OPSETS = range(19, 24)  # DeformConv came with 19; torch's exporter writes up to 23
OUTPUTS = ("boxes", "scores", "classes")


def require_onnx() -> None:
    """Raises UserError where the packages of the extra "export" are absent."""
    missing = []
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)} (the extra 'export')")


def convert(program: ExportedProgram, opset: int, metadata: dict[str, str], size_of_outputs: str) -> Any:
    """An ``onnx.ModelProto``, checked.

    Args:
        program: of :func:`fa_detectron.apps.export.program.export_program`.
        opset: one of OPSETS.
        metadata: goes into the model's ``metadata_props``.
        size_of_outputs: name of the outputs' first dimension.

    Raises:
        UserError: an operator has no counterpart; says which, and which part needs it.
    """
    import onnx

    try:
        with quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=["image"],
                output_names=list(OUTPUTS),
                custom_translation_table=_translations(),
                verbose=False,
            )
        model = converted.model_proto
        _name_dimensions(model, size_of_outputs)
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the exporter and the checker have many
        raise UserError(f"ONNX opset {opset} cannot express {_blame(program, error)}") from error
    return model


def _translations() -> dict[Any, Any]:
    from onnxscript import INT64
    from onnxscript import opset19 as op
    from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

    def class_wise_nms(boxes, scores, classes, iou_threshold, most):
        # NonMaxSuppression works class by class on scores (1, K, M): a row has the scores of its class, -1 elsewhere.
        zero = op.Constant(value_ints=[0])
        count = op.Add(op.ReduceMax(op.Concat(classes, zero, axis=0), keepdims=1), op.Constant(value_ints=[1]))  # (1,)
        rows = op.Unsqueeze(op.Range(op.Constant(value_int=0), op.Squeeze(count), op.Constant(value_int=1)), [1])
        own = op.Equal(rows, op.Unsqueeze(classes, zero))  # (K, M)
        table = op.Where(own, op.Unsqueeze(scores, zero), op.Constant(value_float=-1.0))  # (K, M)
        kept = op.NonMaxSuppression(
            op.Unsqueeze(boxes, zero),
            op.Unsqueeze(table, zero),
            op.Constant(value_ints=[most]),
            op.Constant(value_floats=[float32_limit(iou_threshold)]),
            op.Constant(value_floats=[0.0]),  # above the -1; scores are above the model's own threshold
        )  # (S, 3): image, class, candidate
        kept = op.Reshape(op.Slice(kept, [2], [3], [1]), [-1])  # (S,)
        limit = op.Min(op.Shape(kept), op.Constant(value_ints=[most]))
        _, order = op.TopK(op.Gather(scores, kept), limit)  # best first, equal scores in their order
        return op.Gather(kept, order)  # (D,)

    class_wise_nms.__annotations__["return"] = INT64
    return {
        torch.ops.fa_detectron_export.class_wise_nms.default: class_wise_nms,
        # In matrix products for every opset: opset 23 has Attention, but onnxruntime's refuses the mask's shape.
        torch.ops.aten.scaled_dot_product_attention.default: aten_scaled_dot_product_attention,
    }


def _name_dimensions(model: Any, size_of_outputs: str) -> None:
    """Readable names instead of torch's symbols, for the dimensions that are not fixed."""
    for axis, name in ((2, "height"), (3, "width")):
        dimension = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if not dimension.HasField("dim_value"):
            dimension.dim_param = name
    for output in model.graph.output:
        dimension = output.type.tensor_type.shape.dim[0]
        if not dimension.HasField("dim_value"):
            dimension.dim_param = size_of_outputs


def _blame(program: ExportedProgram, error: Exception) -> str:
    """The operator that the exporter's message names, and the module that calls it; else the message."""
    text = "\n".join(str(e) for e in (error, error.__cause__) if e is not None)
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target) in text:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            part = f" of {stack[-1][0]}" if stack and stack[-1][0] else ""
            return f"the operator {node.target}{part}: {first_line(error.__cause__ or error)}"
    return f"the model: {first_line(error.__cause__ or error)}"
