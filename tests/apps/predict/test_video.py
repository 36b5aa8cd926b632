"""Videos frame by frame; a damaged one gives what can be read, and says so."""

import json
import sys

import cv2
import numpy as np
import pytest

from fa_detectron.apps.predict import detect
from fa_detectron.apps.predict.sources import VideoFrames
from fa_detectron.errors import UserError

FRAMES, WIDTH, HEIGHT = 12, 64, 48


@pytest.fixture
def video(tmp_path):
    """A video whose frame i is 20 * i bright on average; noise, so that the file is more than headers."""
    rng = np.random.default_rng(0)
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for index in range(FRAMES):
        noise = rng.integers(-30, 31, (HEIGHT, WIDTH, 3))
        writer.write((20 * index + noise * (0 < index < FRAMES - 1)).clip(0, 255).astype(np.uint8))
    writer.release()
    return path


def wanted(tmp_path, output="out.mp4"):
    return detect.Outputs(output=str(tmp_path / output), json=str(tmp_path / "r.json"), threshold=0.0, batch_size=5)


def frames_of(path):
    frames = VideoFrames(str(path))
    return frames, list(frames)


def test_frames_are_rgb_and_all_there(video):
    frames, pictures = frames_of(video)
    assert (len(frames), frames.fps, frames.truncated()) == (FRAMES, 10, False)
    np.testing.assert_allclose([picture.mean() for picture in pictures], 20 * np.arange(FRAMES), atol=5)


@pytest.mark.parametrize("output", ["out.mp4", "out.avi", "folder"])
def test_a_video_becomes_a_video_and_coco_results(predictor, video, tmp_path, output):
    summary = detect.predict_video(predictor, str(video), wanted(tmp_path, output))
    assert (summary.images, summary.complaints) == (FRAMES, [])
    path = tmp_path / "folder" / "film.mp4" if output == "folder" else tmp_path / output
    frames, pictures = frames_of(path)
    assert len(pictures) == FRAMES and pictures[0].shape == (HEIGHT, WIDTH, 3) and frames.fps == pytest.approx(10)
    assert {r["image_id"] for r in json.loads((tmp_path / "r.json").read_text())} == set(range(FRAMES))
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_truncated_video_gives_what_can_be_read(predictor, video, tmp_path):
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    summary = detect.predict_video(predictor, str(video), wanted(tmp_path))
    assert 0 < summary.images < FRAMES
    assert summary.complaints == [f"{video}: damaged after frame {summary.images} of {FRAMES}"]
    assert len(frames_of(tmp_path / "out.mp4")[1]) == summary.images
    assert {r["image_id"] for r in json.loads((tmp_path / "r.json").read_text())} == set(range(summary.images))


def test_no_video_is_an_error_and_writes_nothing(predictor, tmp_path):
    (tmp_path / "film.mp4").write_text("no frames")
    with pytest.raises(UserError, match=r"film\.mp4: not a readable video"):
        detect.predict_video(predictor, str(tmp_path / "film.mp4"), wanted(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_an_interruption_leaves_nothing(predictor, video, tmp_path, monkeypatch):
    calls = iter(range(2))

    def interrupted(*_):
        if next(calls):
            raise KeyboardInterrupt
        return annotate(*_)

    annotate = detect.annotate
    monkeypatch.setattr(detect, "annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detect.predict_video(predictor, str(video), wanted(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["film.avi"]


@pytest.mark.parametrize(
    ("output", "message"), [("out.gif", r"videos are written as \.mp4 or \.avi"), ("film.avi", "would be replaced")]
)
def test_impossible_outputs_are_refused(predictor, video, tmp_path, output, message):
    with pytest.raises(UserError, match=message):
        detect.predict_video(predictor, str(video), wanted(tmp_path, output))


def test_a_camera_that_is_not_there():
    with pytest.raises(UserError, match="camera 97: no such camera"):
        VideoFrames(97)


def test_a_camera_is_watched_until_interrupted(predictor, video, tmp_path, monkeypatch):
    class Camera(VideoFrames):
        def __init__(self, source):
            super().__init__(str(video))
            self.is_camera, self._count = True, 0

        def __iter__(self):
            for index, frame in enumerate(super().__iter__()):
                if index == 3:
                    raise KeyboardInterrupt
                yield frame

    monkeypatch.setattr(detect, "VideoFrames", Camera)
    summary = detect.predict_video(predictor, 0, wanted(tmp_path, ""))
    assert (summary.images, summary.complaints) == (3, [])
    assert len(frames_of(tmp_path / "camera0.mp4")[1]) == 3


def test_without_opencv_the_extra_is_named(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="pip install opencv-python-headless"):
        VideoFrames(str(video))
