"""The command: what it writes, what it skips, and how it ends."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fa_detectron.apps.predict import detect
from fa_detectron.apps.predict.ids import image_ids
from fa_detectron.apps.predict.results import picture_paths
from fa_detectron.apps.predict.sources import find_images, video_source
from fa_detectron.errors import UserError
from tests.commands import call


@pytest.fixture
def demo(trained, capsys):
    """demo(*words): exit status, stdout, stderr of `fa-detectron predict` on the tiny run."""

    def run(*words, run=trained.folder):
        return call("predict", "--run", run, "--device", "cpu", *words), *capsys.readouterr()

    return run


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_becomes_pictures_and_coco_results(demo, trained, photos, tmp_path):
    words = ("--input", photos, "--output", tmp_path / "out", "--json", tmp_path / "new" / "r.json")
    status, out, err = demo(*words, "--score-threshold", 0, "--batch-size", 2)
    assert (status, err) == (0, "")
    assert out.startswith("3 images, found with score 0 or more: ") and " block" in out
    assert files_below(tmp_path / "out") == ["0.png", "1.png", "2.png"]
    with Image.open(tmp_path / "out" / "0.png") as drawn, Image.open(photos / "0.png") as image:
        assert drawn.size == image.size
        assert np.any(np.asarray(drawn) != np.asarray(image))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(trained.data)).loadRes(str(tmp_path / "new" / "r.json"))
    assert {a["image_id"] for a in loaded.loadAnns(loaded.getAnnIds())} == {0, 1, 2}
    evaluated = json.loads((trained.folder / "inference" / "coco_instances_results.json").read_text())
    written = json.loads((tmp_path / "new" / "r.json").read_text())
    assert len(written) == len(evaluated)
    assert f"image ids in {tmp_path}/new/r.json: 0, 1, ..., in the order of the images\n" in out  # photos are copies
    status, out, _ = demo("--input", trained.images, "--json", tmp_path / "own.json")
    assert status == 0 and f"image ids in {tmp_path}/own.json: those of {trained.data}\n" in out


def test_bad_images_are_named_and_the_rest_goes_on(demo, photos, tmp_path):
    (photos / "text.jpg").write_text("no pixels")
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    status, out, err = demo("--input", photos, "--output", tmp_path / "out", "--json", tmp_path / "r.json")
    assert status == 3
    assert "1.png: damaged image" in err and "text.jpg: not an image" in err and err.count("skipped: ") == 2
    assert out.startswith("2 images, found with score 0.5 or more: nothing; see ")
    assert files_below(tmp_path / "out") == ["0.png", "2.png"]
    # Not all names are numbers, so images are counted: 0.png, 1.png (skipped), 2.png, text.jpg (skipped).
    assert {r["image_id"] for r in json.loads((tmp_path / "r.json").read_text())} == {0, 2}


def test_every_kind_of_image_is_drawn_at_its_own_size(demo, photos, tmp_path):
    with Image.open(photos / "0.png") as stored:
        image = stored.convert("RGB")
    turned = image.crop((0, 0, 64, 40))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(photos / "exif.jpg", exif=exif)
    image.convert("L").save(photos / "grey.png")
    image.convert("RGBA").save(photos / "rgba.png")
    Image.new("RGB", (1, 1)).save(photos / "pixel.png")
    Image.new("RGB", (10000, 50)).save(photos / "long.png")
    status, out, err = demo("--input", photos, "--output", tmp_path / "out", "--json", tmp_path / "r.json")
    assert (status, err) == (0, "") and out.startswith("8 images")
    sizes = {}
    for name in files_below(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as drawn:
            sizes[name] = drawn.size
    assert len(sizes) == 8 and sizes["exif.jpg"] == (40, 64)
    assert sizes["pixel.png"] == (1, 1) and sizes["long.png"] == (10000, 50)


def test_sixteen_bits_need_a_range(demo, photos, tmp_path):
    grey = np.random.default_rng(0).integers(0, 65536, (64, 64)).astype(np.uint16)
    Image.fromarray(grey).save(photos / "sixteen.png")
    words = ("--input", photos, "--output", tmp_path / "out")
    status, out, err = demo(*words)
    assert status == 3 and out.startswith("3 images") and "sixteen.png: its pixels are uint16, values" in err
    status, out, _ = demo(*words, "INPUT.PIXEL_RANGE", "[0, 65535]")
    assert status == 0 and out.startswith("4 images")
    with Image.open(tmp_path / "out" / "sixteen.png") as drawn:
        assert np.asarray(drawn).std() > 50


def test_a_bar_shows_the_progress_on_a_terminal(demo, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "show_bars", lambda: True)
    status, _, err = demo("--input", photos, "--json", tmp_path / "r.json")
    assert status == 0 and "predicting" in err and "0/3" in err


def test_nothing_readable_is_an_error_and_writes_nothing(demo, tmp_path):
    (tmp_path / "text.jpg").write_text("no pixels")
    status, _, err = demo("--input", tmp_path / "text.jpg", "--output", tmp_path / "out", "--json", tmp_path / "r.json")
    assert status == 2 and "text.jpg: not an image, whatever its name says" in err
    assert files_below(tmp_path) == ["text.jpg"]


def test_a_failure_midway_leaves_no_json(trained, predictor, photos, tmp_path):
    class Failing:
        run, class_names, category_ids = predictor.run, predictor.class_names, predictor.category_ids
        reader = predictor.reader
        calls = 0

        def __call__(self, images):
            self.calls += 1
            if self.calls == 2:
                raise MemoryError
            return predictor(images)

    wanted = detect.Outputs(output="", json=str(tmp_path / "r.json"), threshold=0.5, batch_size=1)
    with pytest.raises(MemoryError):
        detect.predict_images(Failing(), find_images([str(photos)]), wanted)
    assert files_below(tmp_path) == ["photos/0.png", "photos/1.png", "photos/2.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to write: give --output PATH, --json FILE, or both"),
        (("--output", "{tmp}/out", "--score-threshold", "2"), "score threshold 2: expected a number from 0 to 1"),
        (("--output", "{tmp}/out", "--device", "tpu"), "device 'tpu'"),
        (("--json", "{tmp}/photos"), "photos is a folder; give a file's name"),
        (("--output", "{tmp}/photos/0.png"), "is a file; 3 pictures need a folder"),
        (("--output", "{tmp}/photos"), "0.png is one of the images and would be replaced"),
        (("--json", "{tmp}/photos/0.png/r.json"), "r.json: cannot be written"),
        (("--output", "{tmp}/out", "--weights", "{tmp}/none.pth"), "none.pth: no such file"),
        (("--json", "{tmp}/r.json", "--data", "{tmp}/none.json"), "none.json: no such file"),
        (("--json", "{tmp}/r.json", "--images", "{tmp}"), "--images goes with --data"),
        (("--output", "{tmp}/out", "--data", "{tmp}/set.json"), "--data goes with --json"),
    ],
)
def test_wrong_arguments_are_one_line(demo, photos, tmp_path, words, message):
    before = files_below(tmp_path)
    status, _, err = demo("--input", photos, *(word.format(tmp=tmp_path) for word in words))
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert files_below(tmp_path) == before


def test_a_run_without_weights(demo, trained, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copy(trained.folder / "config.yaml", tmp_path / "empty")
    status, _, err = demo("--input", photos, "--output", tmp_path / "out", run=tmp_path / "empty")
    assert status == 2 and f"error: run folder {tmp_path}/empty: no weights in it" in err


def test_inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/b/2.PNG", "a/notes.txt", "a/odd[1].jpg", "c/readme.md"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find_images(["a"]) == ["a/1.jpg", "a/odd[1].jpg"]
    assert find_images(["a/**/*.[jP]*"]) == ["a/1.jpg", "a/b/2.PNG", "a/odd[1].jpg"]
    assert find_images(["a/odd[1].jpg", "a", "a/1.jpg"]) == ["a/odd[1].jpg", "a/1.jpg"]
    Path("empty").mkdir()
    for word, message in [
        ("empty", r"no image in this folder, nothing"),
        ("c", r"no image in this folder, 1 other entries"),
        ("*.gif", "no file matches"),
        ("none.jpg", "no such file or folder"),
    ]:
        with pytest.raises(UserError, match=message):
            find_images([word])
    assert video_source(["a", "a/1.jpg"]) is None
    assert video_source(["0"]) == 0
    Path("0").mkdir()
    assert video_source(["0"]) is None
    with pytest.raises(UserError, match=r"film\.mp4: no such file"):
        video_source(["film.mp4"])
    with pytest.raises(UserError, match="stands alone, here are 2 inputs"):
        video_source(["film.mp4", "a"])


def test_picture_names_are_distinct_and_mirror_folders():
    paths = ["x/a/1.jpg", "x/b/1.jpg", "x/b/1.bmp", "x/b/1.png"]
    assert picture_paths(paths, "out") == ["out/a/1.jpg", "out/b/1.jpg", "out/b/1.bmp.png", "out/b/1.png"]
    assert picture_paths(["x/a/1.bmp"], "out.jpg") == ["out.jpg"]


def test_image_ids():
    assert image_ids(["val/000000397133.jpg", "val/000000000139.jpg"]) == [397133, 139]
    assert image_ids(["a/1.jpg", "b/1.jpg"]) == [0, 1]
    assert image_ids(["a/1.jpg", "a/cat.jpg"]) == [0, 1]
