"""The loss and decoding on a GPU against the plain-PyTorch reference on the CPU."""

import subprocess
import sys

import pytest
import torch

from fa_detectron.ops import decode_detections, native, quality_weighted_loss, reference
from tests.ops import loss_cases as on_cpu_loss
from tests.ops import test_native_decode as on_cpu_decode

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not native.status().cuda_version, reason="the native operators are built without CUDA"),
]


def to_device(arguments, device):
    return [
        [x.to(device) for x in part] if isinstance(part, list) else part.to(device) if torch.is_tensor(part) else part
        for part in arguments
    ]


@pytest.mark.parametrize("iou_type", ["giou", "linear_iou", "iou"])
@pytest.mark.parametrize("method", on_cpu_loss.METHODS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("counts", [(0, 0), (3, 0, 1), (60,)], ids=str)
def test_loss_and_gradients(counts, dtype, tolerance, method, iou_type):
    wide = on_cpu_loss.make_case(((40, 53), (20, 27)), counts=counts, classes=5)
    options = {"iou_type": iou_type, **on_cpu_loss.METHODS[method]}
    expected = on_cpu_loss.evaluate(reference.quality_weighted_loss, wide, **options)
    narrow = [
        [x.to(dtype) if x.is_floating_point() else x for x in part] if isinstance(part, list) else part for part in wide
    ]
    narrow[5:7] = [x.to(dtype) for x in wide[5:7]]
    found = on_cpu_loss.evaluate(quality_weighted_loss, to_device(narrow, "cuda"), **options)
    for part, wanted in zip(found, expected):
        for one, other in zip(part, wanted):
            assert on_cpu_loss.relative_error(one.cpu(), other) < tolerance


def test_the_same_bits_and_no_wait_for_the_device():
    arguments = to_device(on_cpu_loss.make_case(counts=(3, 2), dtype=torch.float32), "cuda")
    first = on_cpu_loss.evaluate(quality_weighted_loss, arguments)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = on_cpu_loss.evaluate(quality_weighted_loss, arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for part, again in zip(first, second):
        assert all(torch.equal(a, b) for a, b in zip(part, again))


def test_no_image_gives_no_loss():
    losses, gradients = on_cpu_loss.evaluate(
        quality_weighted_loss, to_device(on_cpu_loss.make_case(counts=(), dtype=torch.float32), "cuda")
    )
    assert [x.item() for x in losses] == [0, 0, 0] and all(not x.any() for x in gradients)


@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_any_layout_gives_the_same_bits(layout):
    arguments = to_device(on_cpu_loss.make_case(counts=(2, 2), dtype=torch.float32), "cuda")
    expected, _ = on_cpu_loss.evaluate(quality_weighted_loss, arguments)
    for group in arguments[:3]:
        if layout == "channels_last":
            group[:] = [x.contiguous(memory_format=torch.channels_last) for x in group]
        else:
            group[:] = [torch.stack([x, x], dim=-1)[..., 0] for x in group]
    found, _ = on_cpu_loss.evaluate(quality_weighted_loss, arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_bad_numbers_show():
    arguments = to_device(on_cpu_loss.make_case(dtype=torch.float32), "cuda")
    arguments[0][0].view(-1)[::3] = float("nan")
    assert torch.isnan(sum(on_cpu_loss.evaluate(quality_weighted_loss, arguments)[0]))


def test_a_class_out_of_range_is_an_error_at_the_next_wait():
    """The host cannot look without waiting. In a process of its own: nothing runs on the device after it."""
    code = (
        "import torch; from tests.ops import loss_cases, test_native_loss_cuda as here\n"
        "from fa_detectron.ops import quality_weighted_loss\n"
        "arguments = here.to_device(loss_cases.make_case(dtype=torch.float32), 'cuda')\n"
        "arguments[4][0][0] = 4\n"
        "loss_cases.evaluate(quality_weighted_loss, arguments); torch.cuda.synchronize()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "device-side assert" in run.stderr


def test_decoding_in_a_cuda_graph_follows_new_scores():
    maps = to_device(on_cpu_decode.make_maps(shift=1.0), "cuda")
    options = ([8.0, 16.0], 0.0, 0.05, 1000, 0.6, 100)
    operator = torch.ops.fa_detectron.decode_detections
    operator(*maps, *options)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = operator(*maps, *options)
    for level in maps[0]:
        level.copy_(torch.randn_like(level))
    graph.replay()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, operator(*maps, *options)))


def test_decoding_of_no_image_and_of_equal_scores():
    assert decode_detections(*to_device(on_cpu_decode.make_maps(n=0), "cuda"), (8, 16)) == []
    maps = on_cpu_decode.make_maps(((70, 80),), n=1, k=3)
    maps[0][0].fill_(40.0)
    maps[2][0].fill_(40.0)
    (found,), (expected,) = (decode_detections(*m, (8,)) for m in (to_device(maps, "cuda"), maps))
    assert found[2].tolist() == expected[2].tolist()
    torch.testing.assert_close(found[0].cpu(), expected[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("shift", [-5.0, 0.0, 3.0])
def test_decoding(shift):
    maps = on_cpu_decode.make_maps(((40, 50), (20, 25)), n=3, k=9, shift=shift, extent=60.0)
    found = decode_detections(*to_device(maps, "cuda"), (8, 16))
    expected = reference.decode_detections(*maps, (8, 16))
    for one, other in zip(found, expected):
        assert one[2].tolist() == other[2].tolist()
        torch.testing.assert_close(one[0].cpu(), other[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(one[1].cpu(), other[1], rtol=1e-6, atol=0)


def everything(arguments: list, maps: list) -> list[torch.Tensor]:
    """Losses, gradients and detections."""
    losses, gradients = on_cpu_loss.evaluate(quality_weighted_loss, arguments)
    detections = decode_detections(*maps, (8, 16))
    return [*losses, *gradients, *(x for image in detections for x in image)]


def test_the_current_stream_is_used():
    arguments = to_device(on_cpu_loss.make_case(dtype=torch.float32), "cuda")
    maps = to_device(on_cpu_decode.make_maps(shift=1.0), "cuda")
    expected = everything(arguments, maps)
    garbage = [[torch.full_like(x, 9.0) for x in group] for group in (*arguments[:3], *maps)]
    late = torch.cuda.Stream()
    late.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(late):
        torch.cuda._sleep(100_000_000)  # cycles: a kernel on another stream would see the garbage
        for group, values in zip(garbage, (*arguments[:3], *maps)):
            for x, value in zip(group, values):
                x.copy_(value)
        found = everything([*garbage[:3], *arguments[3:]], garbage[3:])
    late.synchronize()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_the_inputs_device_is_used():
    device = f"cuda:{torch.cuda.device_count() - 1}"  # another than the current one, where there are several
    cases = on_cpu_loss.make_case(dtype=torch.float32), on_cpu_decode.make_maps(shift=1.0)
    expected = everything(*(to_device(case, "cuda:0") for case in cases))
    found = everything(*(to_device(case, device) for case in cases))
    assert all(x.device == torch.device(device) for x in found)
    assert all(torch.equal(mine.cpu(), theirs.cpu()) for mine, theirs in zip(found, expected, strict=True))
