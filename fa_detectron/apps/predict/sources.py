"""Where images come from: files, folders, patterns, videos, cameras."""

import glob
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.sources.splits import is_image
from fa_detectron.errors import UnreadableImage, UserError
from fa_detectron.opencv import import_cv2

VIDEO_SUFFIXES = frozenset(".mp4 .avi .mov .mkv .webm .m4v .mpg .mpeg .wmv".split())
_DEFAULT_FPS = 25.0  # for cameras and files that do not say


class ImageFiles:
    """Reads one image after the other; a bad one does not end the walk.

    Args:
        paths: image files.
        reader: a run's.
    """

    def __init__(self, paths: Sequence[str], reader: ImageReader) -> None:
        self.paths, self._reader = list(paths), reader

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray | UnreadableImage]]:
        for path in self.paths:
            try:
                yield path, self._reader.read(path)  # (H, W, 3) uint8 RGB
            except UnreadableImage as error:
                yield path, error


class VideoFrames:
    """The frames of a video file or a camera.

    Args:
        source: a file's path, or a camera's number.

    Attributes:
        fps: frames a second.
        read: frames that were read so far.

    Raises:
        UserError: OpenCV is not installed, or cannot open the source.
    """

    def __init__(self, source: str | int) -> None:
        cv2 = import_cv2("videos and cameras")
        self.name = f"camera {source}" if isinstance(source, int) else source
        self.is_camera = isinstance(source, int)
        # FFmpeg alone: other readers would take a name with digits for a series of images.
        self._capture = cv2.VideoCapture(source, cv2.CAP_ANY if self.is_camera else cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise UserError(f"{self.name}: " + ("no such camera" if self.is_camera else "not a readable video"))
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _DEFAULT_FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self._count = int(count) if math.isfinite(count) and count > 0 else 0  # 0: unknown
        self.read = 0

    def __len__(self) -> int:
        if not self._count:
            raise TypeError(f"{self.name}: the number of frames is unknown")
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames (H, W, 3) uint8 RGB, all of one size, turned as the file says."""
        shape = None
        while True:
            there, frame = self._capture.read()  # (H, W, 3) BGR
            if not there or (shape is not None and frame.shape != shape):
                return
            shape = frame.shape
            self.read += 1
            yield np.ascontiguousarray(frame[:, :, ::-1])

    def close(self) -> None:
        self._capture.release()

    def truncated(self) -> bool:
        """After the last frame: whether the file announced clearly more (some containers only estimate)."""
        return self._count - self.read > max(1, 0.01 * self._count)


def video_source(inputs: Sequence[str]) -> str | int | None:
    """The video file or the camera's number that ``inputs`` name; None for images.

    Raises:
        UserError: a video or camera together with something else, or a video that is not there.
    """
    videos = [word for word in inputs if _is_video(word)]
    if not videos:
        return None
    if len(inputs) > 1:
        raise UserError(f"--input {videos[0]}: a video or a camera stands alone, here are {len(inputs)} inputs")
    word = videos[0]
    if word.isdigit() and not os.path.exists(word):
        return int(word)
    path = os.path.expanduser(word)
    if not os.path.isfile(path):
        raise UserError(f"--input {word}: no such file")
    return path


def _is_video(word: str) -> bool:
    path = os.path.expanduser(word)
    if os.path.isdir(path) or (glob.has_magic(word) and not os.path.exists(path)):
        return False
    return Path(word).suffix.lower() in VIDEO_SUFFIXES or (word.isdigit() and not os.path.exists(path))


def find_images(inputs: Sequence[str]) -> list[str]:
    """The image files that ``inputs`` name, each once, in order.

    Args:
        inputs: files; folders, of which the files with an image's suffix are taken, subfolders left out; glob patterns,
            ``**`` for subfolders.

    Raises:
        UserError: an input does not exist, or gives no image.
    """
    found: dict[str, None] = {}
    for word in inputs:
        path = os.path.expanduser(word)
        if os.path.isdir(path):
            files = [os.path.join(path, name) for name in sorted(os.listdir(path))]
            images = [file for file in files if is_image(file) and os.path.isfile(file)]
            if not images:
                inside = f"{len(files)} other entries" if files else "nothing"
                raise UserError(f"--input {word}: no image in this folder, {inside} (subfolders: '{word}/**/*.jpg')")
        elif os.path.exists(path):  # first, for a file's name may look like a pattern
            images = [path]
        elif glob.has_magic(path):
            images = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
            if not images:
                raise UserError(f"--input {word}: no file matches this pattern")
        else:
            raise UserError(f"--input {word}: no such file or folder")
        found.update(dict.fromkeys(images))
    return list(found)
