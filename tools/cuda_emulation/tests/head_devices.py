"""The loss's and decoding's CUDA kernels where the operators' tests cannot see what they do: only on the emulation.

Not collected by itself: tools/cuda_emulation/run.sh runs it beside tests/ops.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from fa_detectron.ops import quality_weighted_loss
from tests.ops import loss_cases, test_native_decode

assert "FA_EMULATION_ORDER" in os.environ, "tools/cuda_emulation/run.sh runs this file"


@pytest.mark.parametrize("label", [-1, 4, 1 << 40])
def test_a_class_out_of_range_stops_the_kernel(label: int) -> None:
    arguments = loss_cases.make_case(classes=4, dtype=torch.float32)
    arguments[4][1][0] = label
    options = ([8.0, 16.0], 0.0, True, True, 5.0, "giou")
    with pytest.raises(RuntimeError, match="a condition that a kernel requires is false"):
        torch.ops.fa_detectron.quality_statistics(*arguments[:7], *options)


def test_gradients_of_channels_last_maps_are_channels_last() -> None:
    arguments = loss_cases.make_case(dtype=torch.float32)
    for group in arguments[:2]:
        group[:] = [x.contiguous(memory_format=torch.channels_last) for x in group]
    _, gradients = loss_cases.evaluate(quality_weighted_loss, arguments)
    for gradient in gradients[:4]:
        assert gradient.is_contiguous(memory_format=torch.channels_last) and not gradient.is_contiguous()


@pytest.mark.parametrize(
    ("device", "topk", "sorts"), [("9.0", 8192, True), ("9.0", 8193, False), ("7.5", 4096, True), ("7.5", 4097, False)]
)
def test_decoding_takes_three_launches(
    device: str, topk: int, sorts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FA_EMULATION_DEVICE", device)
    maps = test_native_decode.make_maps(((100, 100),), n=1, k=1, shift=1.0, extent=10.0)
    test_native_decode.assert_same(maps, (8,), topk=topk, max_detections=40)
    log = tmp_path / "log"
    monkeypatch.setenv("FA_EMULATION_LOG", str(log))
    torch.ops.fa_detectron.decode_detections(*maps, [8.0], 0.0, 0.05, topk, 0.6, 100)
    launches = [json.loads(line)["kernel"] for line in log.read_text().splitlines()]
    assert launches == ["scores_kernel", "select_kernel", f"keep_kernel<{str(sorts).lower()}>"]
