"""Random arguments of the loss for its tests, and the comparison with the plain-PyTorch reference."""

import torch

from fa_detectron.ops import quality_weighted_loss, reference

METHODS = {
    "AutoAssign": {"feature_filter": False, "quality_prior": False},
    "FeatureAlign": {"feature_filter": True, "quality_prior": True},
}
WEIGHTS = {"loss_pos": 1.0, "loss_neg": -2.0, "loss_norm": 3.0}  # upstream gradients that differ


def make_case(
    sizes=((7, 9), (4, 5)), strides=(8, 16), counts=(3, 1), classes=4, mdq=True, dtype=torch.float64, seed=0, spread=1.0
):
    """Arguments of the loss: head maps of the given (H, W) a level, ``counts`` boxes an image."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, extent = len(counts), torch.tensor([sizes[0][1], sizes[0][0]]) * float(strides[0])
    maps = (
        [(normal(n, classes, *size) * spread).to(dtype) for size in sizes],
        [((normal(n, 4, *size).abs() * 1.5 * s) + 0.1).to(dtype) for size, s in zip(sizes, strides)],
        [(normal(n, 1, *size) * spread).to(dtype) for size in sizes],
    )
    boxes = []
    for count in counts:
        centre = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent
        half = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent / 2
        boxes.append(torch.cat([centre - half, centre + half], dim=1).to(dtype))
    labels = [torch.randint(0, classes, (count,), generator=generator) for count in counts]
    shape = (len(sizes), classes, 2) if mdq else (classes, 2)
    mu, sigma = (0.3 * normal(*shape)).to(dtype), (1 + 0.2 * normal(*shape)).to(dtype)
    return [*maps, boxes, labels, mu, sigma, strides]


def evaluate(function, arguments, weights=WEIGHTS, **options):
    """The three losses and the gradients of their weighted sum by all float inputs."""
    cls, box, obj, boxes, labels, mu, sigma, strides = arguments
    leaves = [x.detach().requires_grad_() for x in (*cls, *box, *obj, mu, sigma)]  # no copies: they have other strides
    levels = len(cls)
    maps = [leaves[i * levels : (i + 1) * levels] for i in range(3)]
    losses = function(*maps, boxes, labels, *leaves[-2:], strides, **options)
    total = sum(weights[name] * value for name, value in losses.items())
    return [*losses.values()], torch.autograd.grad(total, leaves)


def relative_error(found, expected):
    if found.numel() == 0:
        return 0.0
    # A gradient that is exactly 0 everywhere has no scale of its own.
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-20)).item()


def assert_agrees(arguments, tolerance, oracle_dtype=None, **options):
    found = evaluate(quality_weighted_loss, arguments, **options)
    if oracle_dtype is not None:
        cls, box, obj, boxes, labels, mu, sigma, strides = arguments
        wide = [[x.to(oracle_dtype) for x in group] for group in (cls, box, obj, boxes)]
        arguments = [*wide, labels, mu.to(oracle_dtype), sigma.to(oracle_dtype), strides]
    expected = evaluate(reference.quality_weighted_loss, arguments, **options)
    errors = [relative_error(f, e) for found_part, part in zip(found, expected) for f, e in zip(found_part, part)]
    assert all(error < tolerance for error in errors), errors  # not by max(): it passes over a NaN
