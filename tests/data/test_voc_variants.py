"""Pascal VOC files as other tools write them, and folders of them without ImageSets."""

from pathlib import Path

import pytest
from PIL import Image

from fa_detectron.data.findings import NOTE, PROBLEM, Findings
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object
from tests.data.reading import clean, read

CAT = voc_object("cat", (5, 5, 24, 14))


@pytest.mark.parametrize(
    ("word", "crowd"),
    [("0", 0), ("False", 0), ("Unspecified", 0), ("0.0", 0), ("no", 0), ("", 0), ("1", 1), ("True", 1), ("1.0", 1)],
)
def test_difficult_means_what_it_says(voc, word, crowd):
    folder = voc({"a": voc_object("cat", (1, 1, 9, 9), difficult=word)}, {"train": ["a"]})
    assert read(folder).images[0].annotations[0].iscrowd == crowd


def test_any_other_word_is_refused(voc):
    folder = voc({"a": voc_object("cat", (1, 1, 9, 9), difficult="Frontal"), "b": CAT}, {"train": ["a", "b"]})
    with pytest.raises(UserError, match=r"a\.xml: object 0: difficult is 'Frontal', neither yes nor no"):
        read(folder)
    assert [image.image_id for image in read(folder, findings=Findings()).images] == ["b"]


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("ISO-8859-1", "latin-1", "h\u00e9risson"),
        ("windows-1251", "cp1251", "\u043a\u043e\u0442"),
        ("gb2312", "gb18030", "\u732b\u9ed1\u4e28"),  # the last one is not in GB 2312
        ("Shift_JIS", "shift_jis", "\u732b"),
        ("EUC-KR", "euc-kr", "\uace0\uc591\uc774"),
        ("UTF-16", "utf-16", "\u732b"),
        ("utf-8", "utf-8-sig", "h\u00e9risson"),
        ("utf-8", "utf-8", "he\u0301risson"),
    ],
)
def test_xml_is_read_in_the_encoding_that_it_declares(voc, declared, codec, name):
    folder = voc({"a": ""}, {"train": ["a"]})
    text = f'<?xml version="1.0" encoding="{declared}"?>\n<annotation>{voc_object(name, (1, 1, 9, 9))}</annotation>'
    (Path(folder) / "Annotations" / "a.xml").write_bytes(text.encode(codec))
    assert read(folder).classes == (name.replace("e\u0301", "\u00e9"),)


@pytest.mark.parametrize(
    "text",
    [b'<?xml version="1.0" encoding="ascii"?><annotation>\xe9</annotation>', b"<annotation>\xe9</annotation>",
     b'<?xml version="1.0" encoding="zip"?><annotation/>'],
)  # fmt: skip
def test_other_bytes_are_refused(voc, text):
    folder = voc({"a": ""}, {"train": ["a"]})
    (Path(folder) / "Annotations" / "a.xml").write_bytes(text)
    with pytest.raises(UserError, match=r"a\.xml: not valid XML"):
        read(folder)


@pytest.mark.parametrize(("width", "height"), [("0", "0"), ("-1", "48"), ("", ""), ("64.0", "48.0"), ("64", "")])
def test_sizes_by_value_or_from_the_file(voc, width, height):
    folder = voc({"a": ""}, {"train": ["a"]})
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    (Path(folder) / "Annotations" / "a.xml").write_text(f"<annotation>{size}</annotation>")
    image = read(folder).images[0]
    assert (image.width, image.height) == (64, 48)


def test_an_unreadable_image_without_a_size_is_refused(voc):
    folder = voc({"a": ""}, {"train": ["a"]})
    (Path(folder) / "Annotations" / "a.xml").write_text("<annotation/>")
    (Path(folder) / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 images that cannot be read:\n.*a\.jpg: not an image"):
        read(folder)


def test_corners_may_have_decimals(voc):
    data = read(voc({"a": voc_object("cat", ("5.0", "5.5", "24.25", "14"))}, {"train": ["a"]}))
    assert data.images[0].annotations[0].box == (4, 4.5, 24.25, 14)
    clean(data)


@pytest.mark.parametrize(
    ("tags", "guessed"),
    [
        ("<filename>photo 1.png</filename>", 0),
        ("<filename>gone</filename><path>JPEGImages/photo 1.png</path>", 0),
        ("<filename>photo%201.png</filename>", 0),
        ("<filename>PHOTO 1.PNG</filename>", 1),
        ("<path>C:\\Users\\me\\JPEGImages\\photo 1.png</path>", 1),
    ],
)
def test_filename_and_path_count_where_the_image_is_not_called_like_the_xml(voc, tags, guessed):
    folder = Path(voc({"a": "", "b": ""}, {"train": ["a", "b"]}))
    (folder / "JPEGImages" / "a.jpg").rename(folder / "JPEGImages" / "photo 1.png")
    (folder / "Annotations" / "a.xml").write_text(f"<annotation>{tags}{CAT}</annotation>")
    (folder / "Annotations" / "b.xml").write_text("<annotation><filename>photo 1.png</filename></annotation>")
    first, second = read(str(folder), findings=(findings := Findings())).images
    assert Path(first.file_name).name == "photo 1.png" and Path(second.file_name).name == "b.jpg"
    assert len(findings.of(NOTE)) == guessed


def test_a_missing_image_is_named_or_left_out(voc):
    folder = voc({"a": CAT, "b": CAT}, {"train": ["a", "b"]})
    (Path(folder) / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"1 images that do not exist:\n.*JPEGImages/b\.jpg\n.*--skip-missing-images"):
        read(folder)
    assert [image.image_id for image in read(folder, skip_missing_images=True).images] == ["a"]
    (Path(folder) / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"its images \(such as 'a.jpg'\) were not found; looked in .*--images"):
        read(folder)


def test_without_any_folder_of_images_they_are_named_by_their_root(voc, tmp_path_factory):
    folder, far = Path(voc({"a": CAT}, {"train": ["a"]})), tmp_path_factory.mktemp("far")
    (folder / "JPEGImages").rename(far / "JPEGImages")
    with pytest.raises(UserError, match="--images"):
        read(str(folder))
    for root in (far, far / "JPEGImages"):
        assert len(read(str(folder), images_root=str(root)).images) == 1
    with pytest.raises(UserError, match="no such folder"):
        read(str(folder), images_root=str(far / "nowhere"))


@pytest.fixture
def flat(tmp_path):
    """flat(folder of the XML files, folder of the images) -> path of the set: images a, b, c, and XML files of a, b."""

    def make(xml: str, images: str) -> str:
        root = tmp_path / "set"
        (root / xml).mkdir(parents=True)
        (root / images).mkdir(parents=True, exist_ok=True)
        for number, stem in enumerate("abc"):
            Image.new("RGB", (64, 48), (60 * number, 9, 9)).save(root / images / f"{stem}.png")
        for stem in "ab":
            (root / xml / f"{stem}.xml").write_text(f"<annotation><filename>{stem}.png</filename>{CAT}</annotation>")
        return str(root)

    return make


@pytest.mark.parametrize(
    ("xml", "images"),
    [(".", "."), ("annotations", "images"), ("Annotations", "Images"), ("annotations", "."), (".", "images"),
     ("ANNOTATIONS", "JPEGImages"), ("labels", "images")],
)  # fmt: skip
def test_folders_of_xml_files(flat, xml, images):
    path = flat(xml, images)
    data = read(path, findings=(findings := Findings()))
    assert [Path(image.file_name).name for image in data.images] == ["a.png", "b.png"] and data.classes == ("cat",)
    (note,) = findings.all
    assert note.kind == NOTE and "1 images without an XML file, left out" in str(note) and "c.png" in str(note)
    assert data.path == path


def test_the_folder_of_the_xml_files_alone(flat):
    path = flat("annotations", "images")
    assert len(read(f"{path}/annotations").images) == 2
    assert len(read(f"{path}/annotations", images_root=f"{path}/images").images) == 2


def test_two_files_of_one_image_are_put_together(flat):
    path = Path(flat(".", "."))
    (path / "z.xml").write_text(f"<annotation><filename>a.png</filename>{voc_object('ant', (1, 1, 9, 9))}</annotation>")
    first, _ = read(str(path)).images
    assert [a.label for a in first.annotations] == ["cat", "ant"]


@pytest.mark.parametrize(
    ("named", "read_as", "problems"),
    [
        ("a.png", "a.png", 0),
        ("C:\\set\\a.png", "a.png", 0),
        ("a.jpg", "a.jpg", 0),
        ("a.tif", "a.jpg", 0),  # which does not exist
        ("b.jpg", "a.jpg", 1),
    ],
)
def test_the_named_one_of_two_images_counts(voc, named, read_as, problems):
    folder = Path(voc({"a": CAT, "b": ""}, {"train": ["a"]}))
    Image.new("RGB", (64, 48), (1, 200, 3)).save(folder / "JPEGImages" / "a.png")
    (folder / "Annotations" / "a.xml").write_text(f"<annotation><filename>{named}</filename>{CAT}</annotation>")
    (image,) = read(str(folder), findings=(findings := Findings())).images
    assert Path(image.file_name).name == read_as
    assert len(findings.of(PROBLEM)) == problems
    assert all("name another image" in str(found) and named in str(found) for found in findings.of(PROBLEM))


@pytest.mark.parametrize(
    ("corners", "first"),
    [
        ([(0, 0, 9, 9)], 0),
        ([(0.4, 5, 9, 9)], 0),
        ([(-0.3, 5, 9, 9)], 0),
        ([(1, 1, 9, 9), (0, 5, 9, 9)], 1),  # a slip
        ([(0, 0, 9, 9), (1, 5, 9, 9)], 0),
        ([(5, 5, 9, 9)], 1),
    ],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
def test_sets_that_count_from_zero(voc, corners, first, codec):
    folder = Path(voc({"a": "", "b": ""}, {"train": ["a"], "val": ["b"]}))
    objects = "".join(voc_object("cat", box) for box in corners)
    (folder / "Annotations" / "a.xml").write_text(
        f'<?xml version="1.0" encoding="{codec}"?><annotation>{objects}</annotation>', encoding=codec
    )
    (folder / "Annotations" / "b.xml").write_text(f"<annotation>{CAT}</annotation>")
    data = read(str(folder), findings=(findings := Findings()))
    assert [a.box for a in data.images[0].annotations] == [(x - first, y - first, X, Y) for x, y, X, Y in corners]
    assert ["counted from 0" in str(found) for found in findings.all] == [True] * (1 - first)
    other = read(f"{folder}:val").images[0].annotations[0]
    assert other.box == (5 - first, 5 - first, 24, 14), "the splits of a set count alike"


def test_folders_of_splits_count_alike(tmp_path):
    for split, box in (("train", (0, 0, 9, 9)), ("valid", (5, 5, 24, 14))):
        (tmp_path / split).mkdir()
        Image.new("RGB", (64, 48)).save(tmp_path / split / "a.png")
        (tmp_path / split / "a.xml").write_text(f"<annotation>{voc_object('cat', box)}</annotation>")
    assert read(f"{tmp_path}:valid").images[0].annotations[0].box == (5, 5, 24, 14)


def test_roboflow(tmp_path):
    """It writes xmin, xmax, ymin, ymax in this order and counts from 0: so do the boxes of its COCO export."""
    objects = ""
    for label, (left, right, top, bottom) in (("cell", (0, 1, 0, 2)), ("dust", (0, 9, 0, 1))):
        corners = f"<xmin>{left}</xmin><xmax>{right}</xmax><ymin>{top}</ymin><ymax>{bottom}</ymax>"
        objects += f"<object><name>{label}</name><pose>Unspecified</pose><truncated>0</truncated>"
        objects += f"<difficult>0</difficult><occluded>0</occluded><bndbox>{corners}</bndbox></object>"
    size = "<size><width>10</width><height>5</height><depth>3</depth></size><segmented>0</segmented>"
    source = "<source><database>roboflow.ai</database></source>"
    Image.new("RGB", (10, 5)).save(tmp_path / "a_jpg.rf.0123.jpg")
    (tmp_path / "a_jpg.rf.0123.xml").write_text(
        f"<annotation><folder></folder><filename>a_jpg.rf.0123.jpg</filename><path>a_jpg.rf.0123.jpg</path>"
        f"{source}{size}{objects}</annotation>"
    )
    data = read(str(tmp_path))
    clean(data)
    assert [a.box for image in data.images for a in image.annotations] == [(0, 0, 1, 2), (0, 0, 9, 1)]
