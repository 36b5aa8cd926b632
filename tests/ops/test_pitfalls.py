"""What native operators get wrong when nobody looks, one test each, where no other file of this folder has it.

Runs on the native operators or, with FA_NO_NATIVE=1, on the fallback.
"""

import math

import pytest
import torch
from torch import Tensor

from fa_detectron.ops import decode_detections, deform_conv2d, native, quality_weighted_loss
from tests.ops import loss_cases, test_native_decode
from tests.ops.deform_loops import make_case
from tests.ops.test_deform_conv import gradients

native_only = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


def loss_case(**changes) -> list:
    return loss_cases.make_case(**{"dtype": torch.float32} | changes)


def loss_and_gradients(arguments: list) -> list[Tensor]:
    losses, found = loss_cases.evaluate(quality_weighted_loss, arguments)
    return [x.detach() for x in (*losses, *found)]


def everything() -> list[Tensor]:
    """Values and gradients of all three operators on small inputs."""
    output, found = gradients(deform_conv2d, make_case(c=36, size=(9, 8), dtype=torch.float32))
    detections = decode_detections(*test_native_decode.make_maps(shift=1.0), (8, 16))
    return [output, *found, *loss_and_gradients(loss_case()), *(x for image in detections for x in image)]


@torch.no_grad()
def values() -> list[Tensor]:
    """Without gradients: PyTorch itself refuses a backward pass in a forked process."""
    losses = quality_weighted_loss(*loss_case())
    detections = decode_detections(*test_native_decode.make_maps(shift=1.0), (8, 16))
    output = deform_conv2d(*make_case(c=36, size=(30, 30), dtype=torch.float32).arguments())
    return [output, *losses.values(), *(x for image in detections for x in image)]


# ---- the thread's and the process's state


@native_only  # plain PyTorch's backward follows the thread's autocast
@pytest.mark.parametrize("groups", [1, 2])
def test_backward_inside_autocast_rounds_no_gradient(groups: int) -> None:
    case = make_case(c=40, groups=groups, dtype=torch.float32)
    output, wanted = gradients(deform_conv2d, case)
    leaves = case.leaves()
    upstream = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    result = deform_conv2d(*leaves.arguments())
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(result, leaves.tensors(), upstream)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("flushed", [False, True])
def test_the_denormal_mode_is_put_back(flushed: bool) -> None:
    """The dense loss flushes denormals; what runs next must not notice, on any thread."""
    arguments = loss_case(sizes=((60, 70), (30, 35)), counts=(9, 4), classes=20)
    tiny = torch.full((1 << 18,), 1e-40)  # enough for a part on each thread
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        if not torch.set_flush_denormal(flushed):
            assert not flushed or torch.backends.cpu.get_cpu_capability() == "DEFAULT"
            return
        before = tiny * 0.5  # sets the mode of nobody: the pool's threads keep their own
        loss_and_gradients(arguments)
        assert torch.equal(tiny * 0.5, before)
        assert (torch.tensor(1e-40) * 0.5 == 0) == flushed
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def test_a_forked_worker_can_call_every_operator() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # so that the parent's pool exists before the fork
    try:
        expected = values()

        class OneCall(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return 1

            def __getitem__(self, index: int) -> list[Tensor]:
                return values()

        context = {"num_workers": 1, "multiprocessing_context": "fork", "timeout": 60}
        for found in torch.utils.data.DataLoader(OneCall(), batch_size=None, **context):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_deterministic_mode_is_no_obstacle_and_changes_nothing() -> None:
    expected = everything()
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN: what is not written would show
    try:
        found = everything()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_the_inputs_are_not_touched() -> None:
    case, arguments, maps = make_case(), loss_case(), test_native_decode.make_maps()
    tensors = [*case.tensors(), *(x for group in (*arguments[:5], *maps) for x in group), *arguments[5:7]]
    copies = [x.clone() for x in tensors]
    gradients(deform_conv2d, case)
    loss_and_gradients(arguments)
    decode_detections(*maps, (8, 16))
    assert all(torch.equal(x, copy) for x, copy in zip(tensors, copies, strict=True))


# ---- transformations that the operators do not have


@native_only
def test_vmap_is_refused_in_words() -> None:
    cls, box, obj, *rest = loss_case(counts=(2,))

    def loss(scale: Tensor) -> Tensor:
        return quality_weighted_loss([x * scale for x in cls], box, obj, *rest)["loss_neg"]

    with pytest.raises(RuntimeError, match=r"does not work under torch\.vmap"):
        torch.vmap(loss)(torch.ones(2))
    cls, box, obj = test_native_decode.make_maps(n=1)

    def detect(scale: Tensor) -> Tensor:
        numbers = ([8.0, 16.0], 0.0, 0.05, 9, 0.6, 9)
        return torch.ops.fa_detectron.decode_detections([x * scale for x in cls], box, obj, *numbers)[1]

    with pytest.raises(RuntimeError, match=r"does not work under torch\.vmap"):
        torch.vmap(detect)(torch.ones(2))


# ---- numbers


@pytest.mark.parametrize("axis", [0, 1])
def test_a_nan_coordinate_shows_in_the_gradients_that_it_enters(axis: int) -> None:
    case = make_case(n=1, c=36)
    case.offset[0, 4 + axis, 2, 3] = float("nan")  # tap 2
    _, (by_input, by_offset, by_weight, by_bias, by_mask) = gradients(deform_conv2d, case)
    assert not by_input.isnan().any()  # a sample nowhere takes from no pixel
    here = by_offset[0, 4:6, 2, 3].isnan()
    assert here.any() and by_offset.isnan().sum() == here.sum()
    assert by_weight[:, :, 0, 2].isnan().all() and by_weight.isnan().sum() == by_weight[:, :, 0, 2].numel()
    assert not by_bias.isnan().any()
    assert by_mask[0, 2, 2, 3].isnan() and by_mask.isnan().sum() == 1


@pytest.mark.parametrize("place", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [2**31, 2**62])
def test_numbers_that_no_index_holds_are_refused(place: str, value: int) -> None:
    case = make_case(dtype=torch.float32)
    setattr(case, place, (1, value))
    words = f"{place} may be at most" if native.loaded() else "deform_conv2d"  # Python's own have no end
    with pytest.raises(ValueError, match=words):
        deform_conv2d(*case.arguments())


def bare_maps(logit: float) -> list:
    """One image of 2 x 2 cells, 1 class, boxes of 8 pixels to each side."""
    return [[torch.full((1, 1, 2, 2), logit)], [torch.full((1, 4, 2, 2), 8.0)], [torch.full((1, 1, 2, 2), logit)]]


def evaluate(maps: list, box: list[float]) -> tuple[dict[str, Tensor], list[Tensor]]:
    leaves = [x.requires_grad_() for group in maps for x in group] + [torch.zeros(1, 2), torch.ones(1, 2)]
    leaves[-2].requires_grad_(), leaves[-1].requires_grad_()
    boxes = [torch.tensor(box).reshape(-1, 4)]
    labels = [torch.zeros(len(boxes[0]), dtype=torch.int64)]
    losses = quality_weighted_loss(*maps, boxes, labels, *leaves[-2:], (8,), normalizers=(1.0, 1.0))
    return losses, list(torch.autograd.grad(sum(losses.values()), leaves))


def test_the_negative_log_stops_at_100() -> None:
    """A certain score on the background, as binary_cross_entropy gives it."""
    losses, found = evaluate(bare_maps(200.0), [])
    assert losses["loss_neg"].item() == pytest.approx(0.75 * 4 * 100)
    assert all(torch.isfinite(x).all() for x in found)


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("logit", [-1.0, -5.0, -12.0, -18.0, -30.0])
def test_the_logarithm_of_nearly_1_keeps_its_digits(logit: float, gamma: float) -> None:
    """1 - n is 1 for what is below 6e-8: its logarithm would be 0, and 1% wrong long before."""
    maps = [[torch.full((1, 3, 4, 5), logit)], [torch.ones(1, 4, 4, 5)], [torch.full((1, 1, 4, 5), 40.0)]]
    truth = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    options = {"focal_gamma": gamma, "normalizers": (1.0, 1.0)}
    loss = quality_weighted_loss(*maps, *truth, torch.zeros(3, 2), torch.ones(3, 2), (8,), **options)["loss_neg"]
    n = 1 / (1 + math.exp(-logit))
    assert loss.item() == pytest.approx(0.75 * 60 * n**gamma * -math.log1p(-n), rel=2e-6)


@native_only
@pytest.mark.parametrize("size", [(1, 4000, 1, 1), (1, 1, 2000, 1024)], ids=["classes", "locations"])
def test_many_small_terms_count_beside_a_large_one(size: tuple[int, int, int, int]) -> None:
    """A float32 that holds 100 has no room for 3e-6 more."""
    n = (3e-6 / (1 if size[1] > 1 else size[3])) ** (1 / 3)  # the focal term is about n**3, a class or a row 3e-6
    cls = torch.full(size, math.log(n / (1 - n)))
    cls.view(-1)[0] = 200.0
    maps = [[cls], [torch.ones(1, 4, *size[2:])], [torch.full((1, 1, *size[2:]), 40.0)]]
    truth = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)]
    priors = torch.zeros(size[1], 2), torch.ones(size[1], 2)
    loss = quality_weighted_loss(*maps, *truth, *priors, (8,), normalizers=(1.0, 1.0))["loss_neg"]
    expected = 0.75 * (100 + (cls.numel() - 1) * n**2 * -math.log1p(-n))
    assert loss.item() == pytest.approx(expected, rel=5e-6)


def test_an_empty_bag_costs_100_and_pulls_nothing() -> None:
    losses, found = evaluate(bare_maps(-200.0), [1.0, 1.0, 2.0, 2.0])  # between the locations
    assert losses["loss_pos"].item() == pytest.approx(0.25 * 100)
    assert losses["loss_norm"].item() == 0
    assert all(not x.any() for x in found)


@pytest.mark.parametrize("obj", [-200.0, 40.0], ids=["both saturated", "one saturated"])
def test_a_bag_of_probability_0_costs_100(obj: float) -> None:
    """Its locations have no chance at all: b = 0, the slope is -(1 - b) / 1e-12, and 0 times that is 0."""
    maps = bare_maps(-200.0)
    maps[2][0].fill_(obj)
    losses, found = evaluate(maps, [-4.0, -4.0, 12.0, 12.0])
    assert losses["loss_pos"].item() == pytest.approx(0.25 * 100)
    assert all(torch.isfinite(x).all() for x in found)


# PyTorch's sigmoid in float32, and so the fallback's, is 0 below -88.7.
@pytest.mark.parametrize("logit", [-85.0, pytest.param(-95.0, marks=native_only)])
def test_a_score_below_the_normal_numbers_still_counts(logit: float) -> None:
    maps = bare_maps(logit)
    maps[2][0].fill_(40.0)
    wide = [[x.double() for x in group] for group in maps]
    truth = [torch.tensor([[-4.0, -4.0, 12.0, 12.0]])], [torch.tensor([0])]
    found, expected = (
        quality_weighted_loss(*m, *truth, torch.zeros(1, 2), torch.ones(1, 2), (8,), normalizers=(1.0, 1.0))["loss_pos"]
        for m in (maps, wide)
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("mu", [6.0, 8.0, 9.8, 10.0])
def test_a_bag_far_from_the_centre_is_divided_by_1e_12_at_least(mu: float) -> None:
    """The Gaussians' sum is smaller, at 10 cells no normal number: loss and slope follow them, not their quotient."""
    maps, box, label = bare_maps(1.0), [torch.tensor([[-4.0, -4.0, 12.0, 12.0]])], [torch.tensor([0])]

    def evaluate_as(dtype: torch.dtype) -> tuple[float, Tensor]:
        leaf = torch.full((1, 2), mu, dtype=dtype).requires_grad_()
        arguments = [[x.to(dtype) for x in group] for group in maps]
        losses = quality_weighted_loss(
            *arguments, [box[0].to(dtype)], label, leaf, torch.ones(1, 2, dtype=dtype), (8,), normalizers=(1.0, 1.0)
        )
        return losses["loss_pos"].item(), torch.autograd.grad(losses["loss_pos"], leaf)[0].double()

    (found, by_mu), (expected, wanted) = evaluate_as(torch.float32), evaluate_as(torch.float64)
    assert found == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(by_mu, wanted, rtol=1e-2, atol=0)


@pytest.mark.parametrize("mu", [8.0, 50.0], ids=["below 1e-12", "zero"])
def test_far_from_the_centre_the_roots_clamp_lets_no_gradient_through(mu: float) -> None:
    """Gaussians below 1e-12: the prior term is its floor's, and mu and sigma feel nothing of it."""
    maps = bare_maps(-200.0)  # no positive gradient either
    leaves = [torch.tensor([[mu, 0.0]]).requires_grad_(), torch.ones(1, 2).requires_grad_()]
    box, label = [torch.tensor([[-4.0, -4.0, 12.0, 12.0]])], [torch.tensor([0])]
    losses = quality_weighted_loss(*maps, box, label, *leaves, (8,), normalizers=(1.0, 1.0))
    assert losses["loss_norm"].item() == pytest.approx(0.75 / (4 * math.sqrt(1e-12) + 1e-6), rel=1e-5)
    assert all(not x.any() for x in torch.autograd.grad(losses["loss_norm"], leaves))


def test_far_from_the_centre_the_sums_clamp_lets_no_gradient_through() -> None:
    """As above, of AutoAssign's prior term: the sum of all Gaussians is below 1e-12."""
    leaves = [torch.tensor([[9.0, 0.0]]).requires_grad_(), torch.ones(1, 2).requires_grad_()]
    box, label = [torch.tensor([[-4.0, -4.0, 12.0, 12.0]])], [torch.tensor([0])]
    maps = bare_maps(-200.0)
    losses = quality_weighted_loss(
        *maps, box, label, *leaves, (8,), normalizers=(1.0, 1.0), **loss_cases.METHODS["AutoAssign"]
    )
    assert losses["loss_norm"].item() == pytest.approx(0.75 / 1e-12, rel=1e-5)
    assert all(not x.any() for x in torch.autograd.grad(losses["loss_norm"], leaves))


# ---- nothing to do


def test_no_image_at_all() -> None:
    arguments = loss_case(counts=())
    losses, found = loss_cases.evaluate(quality_weighted_loss, arguments)
    assert [x.item() for x in losses] == [0, 0, 0]
    assert all(not x.any() for x in found)
