"""What torchvision's deformable convolution can do beside computing: TorchScript, torch.fx, torch.func.grad."""

import io

import pytest
import torch
from torch import Tensor, nn

from fa_detectron.ops import DeformConv2d, deform_conv2d, reference
from tests.ops.deform_loops import make_case


class Both(nn.Module):
    """The layer, and the function with numbers and pairs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        single = deform_conv2d(x, offset, self.layer.weight, None, padding=1, dilation=(1, 1), mask=mask)
        return self.layer(x, offset, mask) + single


@pytest.fixture
def case() -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    return Both(DeformConv2d(4, 6, 3, padding=1)), (
        torch.randn(2, 4, 5, 7),
        torch.randn(2, 18, 5, 7),
        torch.rand(2, 9, 5, 7),
    )


def test_torchscript_compiles_saves_and_loads_it(case) -> None:
    model, arguments = case
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    torch.testing.assert_close(scripted(*arguments), model(*arguments))
    scripted(*arguments).sum().backward()
    gradient = scripted.layer.weight.grad
    model(*arguments).sum().backward()
    torch.testing.assert_close(gradient, model.layer.weight.grad)


def test_for_fx_the_function_is_a_leaf(case) -> None:
    model, arguments = case
    traced = torch.fx.symbolic_trace(model)
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert calls.count(deform_conv2d) == 2
    torch.testing.assert_close(traced(*arguments), model(*arguments))


@pytest.mark.parametrize("name", ["input", "offset", "weight", "bias", "mask"])
def test_func_grad(name: str) -> None:
    case = make_case(dtype=torch.float64)
    tensors = {key: getattr(case, key) for key in ("input", "offset", "weight", "bias", "mask")}
    options = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}

    def total(operator, value: Tensor) -> Tensor:
        return operator(**{**tensors, name: value}, **options).square().sum()

    found = torch.func.grad(lambda value: total(deform_conv2d, value))(tensors[name])
    expected = torch.func.grad(lambda value: total(reference.deform_conv2d, value))(tensors[name])
    torch.testing.assert_close(found, expected)
