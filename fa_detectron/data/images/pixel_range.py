"""The values of deep images (more than 8 bits per channel) that become 0 and 255, measured on the training set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fa_detectron.data.checks.images import HEADERS, spread
from fa_detectron.data.findings import NOTE, PROBLEM, REFUSED, Findings
from fa_detectron.data.images.file import read_header
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.errors import UserError

_IMAGES = 200  # measured per set
_VALUES = 20_000  # measured per image
_PERCENTILES = (0.1, 99.9)
_MARGIN = 0.1  # of the span between the percentiles: within it, the darkest and brightest values count


@dataclass(frozen=True)
class PixelDepth:
    """Images of a set by depth, from their headers (of a large set, evenly spread ones).

    Attributes:
        deep: files of more than 8 bits per channel.
        shallow: files of 8 bits or less.
    """

    deep: tuple[str, ...]
    shallow: tuple[str, ...]


@dataclass(frozen=True)
class PixelRange:
    """The measured range.

    Attributes:
        low, high: the values that become 0 and 255.
        images: how many were read.
        not_finite: those of them with NaN or infinite pixels.
    """

    low: float
    high: float
    images: int
    not_finite: tuple[str, ...]

    def __str__(self) -> str:
        return f"pixel values {self.low:.7g} to {self.high:.7g} become 0 to 255 (measured on {self.images} images)"


def pixel_depth(files: Sequence[str]) -> PixelDepth:
    """Read the headers of a set's images; unreadable ones, which are reported elsewhere, are left out."""
    by_depth: dict[bool, list[str]] = {True: [], False: []}
    for index in spread(len(files), HEADERS):
        try:
            by_depth[read_header(files[index]).deep].append(files[index])
        except UserError:
            continue
    return PixelDepth(tuple(by_depth[True]), tuple(by_depth[False]))


def measure_range(files: Sequence[str], reader: ImageReader) -> PixelRange:
    """The range of deep images: the percentiles 0.1 and 99.9 of their values, robust against outliers.

    If the darkest or brightest value lies within a tenth of that span, it is used instead, so that nothing is clipped.
    The same files give the same range.

    Args:
        files: deep images; of many, evenly spread ones are read.

    Raises:
        UserError: none of them can be read, or all their pixels are equal.
    """
    rng = np.random.default_rng(0)
    sampled, lowest, highest, odd = [], np.inf, -np.inf, []
    chosen = [files[index] for index in spread(len(files), _IMAGES)]
    for file in chosen:
        try:
            values = reader.values(file).ravel()
        except UserError:
            continue
        finite = values[np.isfinite(values)]
        if len(finite) < len(values):
            odd.append(file)
        if not len(finite):
            continue
        lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
        sampled.append(rng.choice(finite, _VALUES) if len(finite) > _VALUES else finite)
    if not lowest < highest:
        what = f"all pixels have the value {lowest:.7g}" if sampled else "none has a finite pixel value"
        raise UserError(f"{chosen[0]} and {len(chosen) - 1} more images of more than 8 bits a channel: {what}")
    low, high = (float(v) for v in np.percentile(np.concatenate([s.astype(np.float64) for s in sampled]), _PERCENTILES))
    margin = _MARGIN * (high - low)
    low, high = max(lowest, low - margin), min(highest, high + margin)
    if low == high:  # nearly all pixels are equal, the objects are in the rest
        low, high = lowest, highest
    return PixelRange(low, high, len(sampled), tuple(odd))


def settle_pixel_range(
    train: Mapping[str, Sequence[str]], test: Mapping[str, Sequence[str]], reader: ImageReader, findings: Findings
) -> ImageReader:
    """The reader of a run, with a measured range if it has none and the training sets have deep images.

    Args:
        train, test: the files of each set by its name; ``train`` is empty if a run is only evaluated.
        reader: from the config.
        findings: gets the range, mixtures of both depths, and test sets that cannot be read without a range.
    """
    deep: list[str] = []
    for name, files in train.items():
        depth = pixel_depth(files)
        deep += depth.deep
        _report_mixture(name, depth, reader, findings)
    where = ", ".join(train)
    if deep and reader.value_range is None:
        try:
            found = measure_range(deep, reader)
        except UserError as error:
            findings.say(REFUSED, where, str(error))
            return reader
        findings.say(NOTE, where, f"{found}; stored as INPUT.PIXEL_RANGE, for evaluation and prediction")
        findings.problem(where, "images with pixels that are NaN (they become 0) or infinite", found.not_finite)
        reader = replace(reader, value_range=(found.low, found.high))
    for name, files in test.items():
        depth = pixel_depth(files)
        if reader.value_range is None:
            findings.refuse(
                name,
                "images of more than 8 bits a channel, but INPUT.PIXEL_RANGE is empty: the model learns, or has "
                "learnt, from images of 8 bits",
                depth.deep,
                "Convert these to 8 bits as the training images were, or give the values that become 0 and 255: "
                'INPUT.PIXEL_RANGE "[LOW, HIGH]".',
            )
        _report_mixture(name, depth, reader, findings)
    return reader


def _report_mixture(name: str, depth: PixelDepth, reader: ImageReader, findings: Findings) -> None:
    if depth.shallow and (depth.deep or reader.value_range):
        count = f"{len(depth.shallow)} of {len(depth.deep) + len(depth.shallow)} images"
        text = "have 8 bits a channel and are taken as they are, while INPUT.PIXEL_RANGE scales those of more bits"
        findings.say(PROBLEM, name, f"{count} {text}: make sure that they are as bright")
