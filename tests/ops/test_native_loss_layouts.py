"""The native loss where its CUDA kernels cut their work: parts of boxes, of classes, of locations; layouts, limits."""

import itertools

import pytest
import torch

from fa_detectron.ops import native, quality_weighted_loss
from tests.ops.loss_cases import METHODS, assert_agrees, evaluate, make_case

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("mdq", [True, False])
def test_boxes_of_several_slices(mdq, dtype, tolerance, method):
    """A slice has 1024 locations of a level: one box covers all 4270 of the first, one is small, one holds none."""
    case = make_case(((70, 61), (35, 31), (1, 1)), (8, 16, 32), counts=(4, 0, 2), classes=3, mdq=mdq, dtype=dtype)
    case[3][0][0] = torch.tensor([-5.0, -5.0, 600.0, 600.0])
    case[3][0][1] = torch.tensor([100.0, 100.0, 130.0, 140.0])
    case[3][2][0] = torch.tensor([9.0, 9.0, 10.0, 10.0])
    case[4][0][:2] = 1  # of one class, one in the other
    assert_agrees(case, tolerance, torch.float64, **METHODS[method])


@pytest.mark.parametrize("classes", [1, 2, 7, 8, 9, 17, 40, 41])
def test_any_number_of_classes(classes):
    case = make_case(((7, 9), (4, 4)), counts=(5, 2), classes=classes, dtype=torch.float32)
    assert_agrees(case, 1e-4, torch.float64)


@pytest.mark.parametrize("layout", ["channels_last", "mixed", "strided"])
@pytest.mark.parametrize("classes", [1, 3, 20])
def test_any_layout_of_losses_and_gradients(classes, layout):
    case = make_case(((13, 17), (4, 8), (1, 1)), (8, 16, 32), counts=(3, 2), classes=classes, dtype=torch.float32)
    expected = evaluate(quality_weighted_loss, case)
    for place, group in enumerate(case[:3]):
        if layout == "strided":
            group[:] = [torch.stack([x, x], dim=-1)[..., 0] for x in group]
        elif layout == "channels_last" or place == 0:
            group[:] = [x.contiguous(memory_format=torch.channels_last) for x in group]
    found = evaluate(quality_weighted_loss, case)
    for f, e in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("levels", "images"), [(8, 2), (9, 2), (1, 256), (1, 257)])
def test_any_number_of_levels_and_images(levels, images):
    """On a GPU plain PyTorch takes what the kernels do not."""
    sizes, strides = [(4, 3 + i) for i in range(levels)], [8] * levels
    case = make_case(sizes, strides, counts=[i % 3 for i in range(images)], classes=2, dtype=torch.float32)
    assert_agrees(case, 1e-4, torch.float64)
