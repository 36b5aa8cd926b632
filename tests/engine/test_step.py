"""One step: several small batches whose gradients add up are the one large batch."""

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.utils.events import EventStorage

from fa_detectron.engine.run.signals import StopSignals
from fa_detectron.engine.step import StepTrainer
from tests.engine.test_distributed import BOXES, build_batch, build_model


def stepped(method: str, cases: tuple[str, ...], parts: int) -> tuple[dict, dict]:
    """Logged losses and weights after one step over the four images of each case, in float64."""
    model, batch = build_model(method).double(), [image for case in cases for image in build_batch(case)]
    size = len(batch) // parts
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = StepTrainer(model, optimizer, seed=0, stop=StopSignals(), accumulate=parts)
    trainer.start([batch[i : i + size] for i in range(0, len(batch), size)])
    with EventStorage() as storage:
        trainer.run_step()
    losses = {name: value for name, (value, _) in storage.latest().items() if "loss" in name}
    return losses, model.state_dict()


@pytest.mark.parametrize("method", ["FeatureAlign", "AutoAssign"])
@pytest.mark.parametrize("cases", [*((case,) for case in BOXES), tuple(BOXES)], ids=[*BOXES, "sixteen"])
def test_four_parts_are_all_at_once(method, cases):
    """4 x 1 and 2 x 2 are 4 images at once, 4 x 4 are 16."""
    before = build_model(method).double().state_dict()
    whole_losses, whole = stepped(method, cases, 1)
    for parts in (2, 4):
        losses, weights = stepped(method, cases, parts)
        assert losses == pytest.approx(whole_losses, rel=1e-6)  # the divisors are those of float32 boxes
        for name, value in whole.items():
            moved = (value - before[name]).abs().max().item()
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-7 * moved + 1e-14, msg=name)
    assert any((value != before[name]).any() for name, value in whole.items())
