"""Shapes, textures and backgrounds of the built-in data set, as plain numpy arrays.

Everything is float64 arithmetic of scalars and + - * / sqrt min max floor of arrays, and every random number comes
from ``numpy.random.RandomState`` (its stream is frozen): the same pixels on every machine and numpy release.

Legend: H, W pixels of the patch or scene.
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
# A shape maps unit coordinates u, v, (H, W) each, to a signed distance (H, W): negative inside, outline near radius 1.
Shape = Callable[[Array, Array], Array]


def _half_planes(u: Array, v: Array, count: int, apothem: float) -> Array:
    """Signed distances to ``count`` lines around the origin, (count, H, W)."""
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    return np.stack([u * math.cos(a) + v * math.sin(a) - apothem for a in angles])


def _polygon(count: int) -> Shape:
    apothem = math.cos(math.pi / count)
    return lambda u, v: _half_planes(u, v, count, apothem).max(axis=0)


def _star(u: Array, v: Array) -> Array:
    # A pentagram is where at most one of the five lines has the point outside; its tips lie at radius 1.
    distances = _half_planes(u, v, 5, math.cos(2 * math.pi / 5))
    return np.sort(distances, axis=0)[-2]


def _hexagram(u: Array, v: Array) -> Array:
    return np.sort(_half_planes(u, v, 6, 0.5), axis=0)[-2]


def _disk(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 1.0


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.sqrt(u * u + v * v) - 0.78) - 0.22


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.96, b - 0.3), np.maximum(b - 0.96, a - 0.3))


def _half_disk(u: Array, v: Array) -> Array:
    return np.maximum(_disk(u, v), v)


def _bar(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u) - 1.0, np.abs(v) - 0.16)


# The classes come in look-alike pairs: disk and hexagon, disk and ring, square and hexagon, triangle and star.
CLASSES: dict[str, Shape] = {
    "disk": _disk,
    "ring": _ring,
    "triangle": _polygon(3),
    "square": _polygon(4),
    "hexagon": _polygon(6),
    "star": _star,
}
# Drawn like the classes, and belonging to none; the last two are easily taken for a star and a hexagon.
DISTRACTORS: tuple[Shape, ...] = (_cross, _half_disk, _bar, _hexagram, _polygon(5))


def _triangle_wave(t: Array) -> Array:
    """Period 1, values 0..1; a sine without a library call whose last bit differs between processors."""
    return np.abs(t - np.floor(t) - 0.5) * 2.0


def _sharpen(t: Array, width: float) -> Array:
    return np.clip((t - 0.5) / width + 0.5, 0.0, 1.0)


def pattern(rng: np.random.RandomState, x: Array, y: Array, period: float) -> Array:
    """A random texture over pixel coordinates x, y (H, W): a mixing weight in 0..1, (H, W)."""
    kind = rng.randint(6)
    angle = rng.uniform(0, math.pi)
    c, s = math.cos(angle), math.sin(angle)
    a, b = (x * c + y * s) / period, (y * c - x * s) / period
    if kind == 0:  # stripes
        return _sharpen(_triangle_wave(a), 0.3)
    if kind == 1:  # checks
        return _sharpen(0.5 + 2.0 * (_triangle_wave(a) - 0.5) * (_triangle_wave(b) - 0.5), 0.15)
    if kind == 2:  # dots
        radius = np.sqrt((a - np.floor(a) - 0.5) ** 2 + (b - np.floor(b) - 0.5) ** 2)
        return np.clip((0.32 - radius) / 0.1, 0.0, 1.0)
    if kind == 3:  # soft waves
        return _triangle_wave(a + 0.35 * _triangle_wave(b * 0.6))
    if kind == 4:  # one slope across the patch
        return (a - a.min()) / max(float(a.max() - a.min()), 1e-6)
    return np.zeros_like(x)  # plain


def smooth_noise(rng: np.random.RandomState, height: int, width: int, cell: int) -> Array:
    """Value noise 0..1, (height, width): random values every ``cell`` pixels, blended smoothly between."""

    def weights(size: int) -> tuple[Array, Array]:
        t = np.arange(size) / cell
        low = np.floor(t).astype(int)
        t = t - low
        return low, t * t * (3.0 - 2.0 * t)

    rows, fy = weights(height)
    cols, fx = weights(width)
    grid = rng.uniform(size=(height // cell + 2, width // cell + 2))
    columns = grid[:, cols] * (1.0 - fx) + grid[:, cols + 1] * fx  # (cells, W)
    return columns[rows] * (1.0 - fy[:, None]) + columns[rows + 1] * fy[:, None]  # (H, W)


def colour(rng: np.random.RandomState, low: float = 25.0, high: float = 235.0) -> Array:
    """A random RGB colour, (3,), from muted to saturated."""
    grey = rng.uniform(low, high)
    return np.clip(grey + rng.uniform(-90.0, 90.0, size=3), low, high)


def background(rng: np.random.RandomState, height: int, width: int) -> Array:
    """A textured background, (H, W, 3) float64, 0..255."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    first = colour(rng, 40.0, 215.0)
    second = first + rng.uniform(-45.0, 45.0, size=3)
    clouds = 0.6 * smooth_noise(rng, height, width, 64) + 0.4 * smooth_noise(rng, height, width, 20)
    texture = pattern(rng, x, y, rng.uniform(9.0, 44.0))
    strength = rng.uniform(0.0, 0.6)
    mix = (1.0 - strength) * clouds + strength * texture
    light = 1.0 + 0.15 * rng.uniform(-1, 1) * (x / width - 0.5) + 0.2 * rng.uniform(-1, 1) * (y / height - 0.5)
    image = first + mix[..., None] * (second - first)  # (H, W, 3)
    return image * light[..., None]
