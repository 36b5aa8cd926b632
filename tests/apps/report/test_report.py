"""The page of a tiny run: all there, nothing loaded from elsewhere, no name taken for HTML."""

import html.parser
import json
import re
import shutil
from types import SimpleNamespace

import pytest

pytest.importorskip("detectron2")

from fa_detectron.apps.report import ReportOptions, page
from tests.commands import call
from tests.engine.conftest import run
from tests.engine.tiny import make_config, make_set

CLASSES = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a & b")
IMAGE = "<b onclick='alert(3)'>.png"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of two iterations, evaluated after each, of which every detection is kept; names that want to be HTML."""
    base = tmp_path_factory.mktemp("report")
    data = make_set(base / "data", images=4, classes=CLASSES)
    content = json.loads(data.read_text())
    content["images"][0]["file_name"] = IMAGE
    (data.parent / "0.png").rename(data.parent / IMAGE)
    data.write_text(json.dumps(content))
    words = ("--config-file", make_config(base), "--train", data, "--val", data, "OUTPUT_DIR", base / "run")
    options = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", "0.0")
    done = run(*words, *options)
    return SimpleNamespace(folder=base / "run", data=data, results=done.results)


@pytest.fixture
def report(capsys):
    """report(*words): exit status, stdout, stderr of the command."""

    def run(*words):
        capsys.readouterr()
        return call("report", "--device", "cpu", *words), *capsys.readouterr()

    return run


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with their attributes, headings, all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.headings, self.text, self._open = [], [], "", []
        self.feed(text)
        assert self._open == []  # every element is closed, in order

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "line", "circle"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if "style" not in self._open:
            self.text += f" {' '.join(data.split())}"


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """The page with all that it can have: two runs of alignment, more than one evaluation."""
    from fa_detectron.inference import load_run

    target = tmp_path_factory.mktemp("made") / "new" / "report.html"
    before = sorted(path.name for path in trained.folder.rglob("*"))
    loaded = load_run(trained.folder, device="cpu")
    missing = page.write_report(loaded, str(target), ReportOptions(pictures=2, beside=(loaded,)))
    assert missing == [] and sorted(path.name for path in trained.folder.rglob("*")) == before
    return target.read_text()


def test_every_section_is_there(made, trained):
    seen = Page(made)
    assert seen.headings == [
        "run", "Accuracy", "Sample detections", "What goes wrong", "Do score and box agree?", "Training",
        "Cost and speed", "Configuration",
    ]  # fmt: skip
    for words in (
        "FeatureAlign, evaluated on 4 images of data/set.json",
        "Losses",
        "AP during training",
        "Learning rate",
        "Precision, recall and F1",
        "Confusions",
        "Hardest images",
        "Where objects are looked for",
        "ResNet-18",
        "images a second",
    ):
        assert words in seen.text, words
    for name in ("AP", "AP50"):
        assert f" {trained.results['bbox'][name]:.1f}" in seen.text


def test_the_page_stands_alone(made):
    seen = Page(made)
    assert {tag for tag, _ in seen.tags} & {"script", "link", "iframe", "object", "base"} == set()
    policy = next(attributes["content"] for tag, attributes in seen.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy and "script-src" not in policy
    pictures = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) == 2 * 2 + 2 * 2 + 2 + 1  # samples, hardest, alignment, priors
    assert all(attributes["src"].startswith("data:image/jpeg;base64,") for attributes in pictures)
    assert all(attributes["alt"] for attributes in pictures)
    rest = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", made)
    assert "http:" not in rest and "https:" not in rest and "url(" not in rest and "@import" not in rest
    assert len(made) < 3e6


def test_names_are_never_html(made):
    seen = Page(made)
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    for name in (*CLASSES, IMAGE):
        assert name in seen.text
        assert name not in made or name == CLASSES[2]
    assert "a & b" not in made and "a &amp; b" in made


def test_folders_of_the_machine_stay_private(made, trained):
    assert str(trained.folder.parent) not in made


def test_the_command_writes_into_the_runs_folder(trained, report, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained.folder, folder)
    status, out, err = report("--run", folder, "--pictures", 0, "--score-threshold", 0.5)
    assert (status, err) == (0, "") and re.fullmatch(rf"wrote {folder}/report.html \(0\.\d MB\)\n", out)
    seen = Page((folder / "report.html").read_text())
    assert "F1 at score 0.50" in seen.text and "Sample detections" not in seen.headings


def test_a_run_without_its_data_and_metrics_says_so(trained, report, tmp_path):
    folder = tmp_path / "moved"
    folder.mkdir()
    for name in ("config.yaml", "model_final.pth"):
        shutil.copy(trained.folder / name, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(str(trained.data), "/gone/val.json"))
    status, out, _ = report("--run", folder)
    assert status == 0 and "missing: The run's evaluation set cannot be read here" in out and "/gone/val.json" in out
    text = (folder / "report.html").read_text()
    seen = Page(text)
    assert seen.headings == ["moved", "Accuracy", "Training", "Cost and speed", "Configuration"]
    for words in ("--data names another", "no metrics.json", "No AP", "an image of noise"):
        assert words in seen.text, words
    assert "/gone" not in text


def test_without_data_the_ap_is_the_runs_own(trained, report, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(trained.folder, folder)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace(str(trained.data), "/gone/val.json"))
    assert report("--run", folder)[0] == 0
    seen = Page((folder / "report.html").read_text())
    assert "the AP is what the run itself noted last" in seen.text and "By category" in seen.text
    assert f" {trained.results['bbox']['AP']:.1f}" in seen.text
    # The data at another place.
    status, out, _ = report("--run", folder, "--data", trained.data, "--images", trained.data.parent)
    assert status == 0 and "missing" not in out
    assert "Hardest images" in Page((folder / "report.html").read_text()).text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--data", "{tmp}/none.json"), "none.json: no such file"),
        (("--images", "{tmp}"), "--images goes with --data"),
        (("--score-threshold", "2"), "score threshold 2"),
        (("--pictures", "-1"), "--pictures -1"),
        (("--output", "{tmp}"), "is a folder; give a file's name"),
        (("--output", "{tmp}/file/report.html"), "file"),
        (("--weights", "{tmp}/none.pth"), "none.pth: no such file"),
        (("--beside", "{tmp}"), "it has no config.yaml"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(trained, report, tmp_path, words, message):
    (tmp_path / "file").touch()
    output = () if "--output" in words else ("--output", tmp_path / "report.html")
    status, _, err = report("--run", trained.folder, *output, *(word.format(tmp=tmp_path) for word in words))
    assert status == 2 and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_older_page_survives_a_failure(trained, tmp_path, monkeypatch):
    from fa_detectron.inference import load_run

    target = tmp_path / "report.html"
    target.write_text("old")

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(page, "render", broken)
    with pytest.raises(MemoryError):
        page.write_report(load_run(trained.folder, device="cpu"), str(target), ReportOptions())
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["report.html"]
