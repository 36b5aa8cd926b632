"""Image names as other machines wrote them, and the one file here that each means."""

import os
import unicodedata
from pathlib import Path

import pytest

from fa_detectron.data.findings import NOTE, REFUSED, Findings
from fa_detectron.data.images.finder import ImageFinder
from fa_detectron.errors import UserError
from tests.data.reading import read


@pytest.fixture
def finder(tmp_path):
    """finder(*files, ...) -> an ImageFinder in a folder of these (empty) files."""

    def make(*files: str, folders=(".", "images"), sample=(), **options) -> ImageFinder:
        root = tmp_path / "set"
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        places = [os.path.normpath(root / folder) for folder in folders]
        return ImageFinder(places, str(root), sample=sample, **options)

    return make


def found(finder: ImageFinder, name: str, tmp_path: Path) -> str:
    path = finder.find(name)
    assert not path or os.path.isfile(path), f"{name} leads to {path}"
    return os.path.relpath(path, tmp_path / "set") if path else ""


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("1.png", "images/1.png"),
        ("images/1.png", "images/1.png"),
        ("./images/1.png", "images/1.png"),
        ("../set/images/1.png", "images/1.png"),
        ("{root}/set/images/1.png", "images/1.png"),
        ("a%20b.png", "images/a b.png"),
        ("50%.png", "images/50%.png"),
        ("x%20y.png", "images/x%20y.png"),  # the name as it stands comes first
    ],
)
def test_paths_that_lead_to_a_file_are_no_guesses(finder, tmp_path, name, file):
    finder = finder("images/1.png", "images/a b.png", "images/50%.png", "images/x%20y.png", "images/x y.png")
    assert found(finder, name.format(root=tmp_path), tmp_path) == file
    assert finder.guessed == []


@pytest.mark.parametrize(
    "name",
    [
        "images\\cat one.JPG",
        "C:\\Users\\me\\set\\images\\cat one.JPG",
        "\\\\server\\share\\cat one.JPG",
        "/home/other/project/cat one.JPG",
        "../../media/cat one.JPG",
        "http://host:8080/data/upload/1/cat%20one.JPG",
        "https://host/cat%20one.JPG?token=a/b.png",
        "s3://bucket/deep/cat one.JPG",
        "/data/local-files/?d=media/cat%20one.JPG",
        "file:///media/cat%20one.JPG",
        "cat one.jpg",
        "CAT%20ONE.jpg",
        "train/images/cat one.JPG",
    ],
)
def test_other_names_are_found_by_their_last_component(finder, tmp_path, name):
    finder = finder("images/cat one.JPG", "images/other.png")
    assert found(finder, name, tmp_path) == "images/cat one.JPG"
    assert finder.guessed == [f"{name}: {tmp_path}/set/images/cat one.JPG"]
    finder.report("the set", findings := Findings(strict=True))
    (note,) = findings.all
    assert note.kind == NOTE and "1 images found by their file name only" in str(note)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_normal_forms_are_one_name(finder, tmp_path, forms):
    here, there = (unicodedata.normalize(form, "caf\u00e9.png") for form in forms)
    assert found(finder(f"images/{here}"), there, tmp_path) == f"images/{here}"


def test_of_several_namesakes_the_one_in_the_same_folders_is_taken(finder, tmp_path):
    finder = finder("a/train/1.png", "a/val/1.png", "b/val/1.png")
    assert found(finder, "D:\\x\\train\\1.png", tmp_path) == "a/train/1.png"
    assert found(finder, "/x/b/VAL/1.png", tmp_path) == "b/val/1.png"


def test_two_candidates_are_refused_with_both(finder, tmp_path):
    finder = finder("a/1.png", "b/1.png")
    assert finder.find("/x/1.png") == "" and finder.find("1.png") == ""
    with pytest.raises(UserError, match=r"several files of that name") as caught:
        finder.report("the set", Findings(strict=True))
    assert f"/x/1.png: {tmp_path}/set/a/1.png and {tmp_path}/set/b/1.png" in str(caught.value)
    assert "--images" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["2.png", "", ".", "..", "/", "x\0y", "\ud800.png", "http://[::1", "y" * 5000, "a/2.png"]
)
def test_names_without_a_file(finder, name):
    finder = finder("images/1.png", sample=["1.png"])
    assert not os.path.isfile(finder.find(name)) and finder.guessed == []


def test_a_namesake_in_another_split_is_another_image(finder, tmp_path):
    """Of a set whose folder is known, a missing image is missing: another split may well number its images alike."""
    finder = finder("train/1.png", "val/1.png", "val/2.png", folders=(".", "train"), sample=["1.png", "2.png"])
    assert found(finder, "1.png", tmp_path) == "train/1.png"
    assert finder.find("2.png") == f"{tmp_path}/set/train/2.png"
    assert found(finder, "1.PNG", tmp_path) == "train/1.png"


def test_the_folder_with_most_of_the_images_comes_first(finder, tmp_path):
    finder = finder("1.png", "images/1.png", "images/2.png", sample=["1.png", "2.png"])
    assert found(finder, "1.png", tmp_path) == "images/1.png"


def test_nothing_found_says_where_it_was_looked_for(finder, tmp_path):
    finder = finder("other/2.png", "images/3.txt")
    finder.find("1.png")
    words = rf"its images \(such as '1.png'\) were not found; looked in {tmp_path}/set/images and below {tmp_path}/set"
    with pytest.raises(UserError, match=words):
        finder.report("the set", Findings())
    finder.find("2.png")
    finder.report("the set", Findings())


def test_other_names_of_an_image_count_where_the_first_leads_nowhere(finder, tmp_path):
    finder = finder("images/1.png", "images/2.png", "deep/er/3.png")
    assert finder.find("1.png", "2.png") == f"{tmp_path}/set/images/1.png"
    assert finder.find("4.png", "2.png") == f"{tmp_path}/set/images/2.png" and finder.guessed == []
    assert finder.find("4.png", "/x/3.png") == f"{tmp_path}/set/deep/er/3.png" and len(finder.guessed) == 1
    assert finder.find("4.png", "5.png") == f"{tmp_path}/set/4.png"


@pytest.mark.parametrize("name", ["1.png", "/x/1.png"])
def test_links(finder, tmp_path, name):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.png").touch()
    make = finder
    make("store/2.png")
    (tmp_path / "set" / "images").mkdir()
    link = tmp_path / "set" / "images" / "1.png"
    link.symlink_to(tmp_path / "far" / "1.png")
    finder = make()
    assert finder.find(name) == ""
    with pytest.raises(UserError, match=rf"1 images that a link takes out of {tmp_path}/set:\n  {name}"):
        finder.report("the set", Findings(strict=True))
    assert make(follow_links=True).find(name) == str(link)
    link.unlink()
    link.symlink_to("../store/2.png")  # stays in the set
    assert make().find(name) == str(link)


def test_a_linked_folder(finder, tmp_path):
    make = finder
    make("2.png")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.png").touch()
    (tmp_path / "set" / "images").symlink_to(tmp_path / "far")
    assert make(folders=("images",)).find("1.png")  # named as the images' folder
    finder = make(folders=(".",))
    assert finder.find("images/1.png") == "" and finder.outside == ["images/1.png"]


def test_a_hundred_thousand_names_take_two_listings(finder, tmp_path, monkeypatch):
    names = [f"{i}.png" for i in range(2000)]
    finder = finder(*(f"images/{name}" for name in names), sample=names[::100])
    calls = []
    for function in ("stat", "lstat", "scandir", "listdir"):
        original = getattr(os, function)
        monkeypatch.setattr(os, function, lambda *a, _original=original, **k: calls.append(a) or _original(*a, **k))
    assert all(finder.find(name) for name in names)
    assert all(finder.find(f"C:\\images\\{name}") for name in names)
    assert len(calls) < 50


def test_coco_sets_from_another_machine(coco, tmp_path):
    def edit(content):
        for image in content["images"]:
            image["file_name"] = f"C:\\data\\images\\{image['file_name']}"

    path = coco(edit)
    data = read(path, findings=(findings := Findings()))
    assert [Path(image.file_name).name for image in data.images] == ["1.png", "2.png", "3.png"]
    assert [finding.kind for finding in findings.all] == [NOTE] and "3 images found" in str(findings.all[0])
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "2.png").write_bytes((tmp_path / "images" / "2.png").read_bytes())
    assert len(read(path).images) == 3  # the other one shares the folder's name, too
    (tmp_path / "copy" / "images").mkdir()
    (tmp_path / "copy" / "2.png").rename(tmp_path / "copy" / "images" / "2.png")
    assert len(read(path, findings=(findings := Findings())).images) == 2
    assert [finding.kind for finding in findings.all] == [NOTE, REFUSED]


def test_lvis_names_its_images_by_a_url(coco):
    def edit(content):
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"

    assert len(read(coco(edit)).images) == 3
