"""A validation set cut from the training set: shares of the classes, copies on one side, the same for the same seed."""

from collections import Counter

import pytest

from fa_detectron.data.findings import Findings
from fa_detectron.data.hold_out import (
    groups_of_copies,
    hold_out,
    image_names,
    keep_part,
    roboflow_source,
    shared_sources,
)
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord
from fa_detectron.errors import UserError

HASH = "0123456789abcdef0123456789abcdef"


def make(labels, name="{}.jpg"):
    """A set with one image per item of ``labels``, which lists the classes of its boxes."""
    images = [
        ImageRecord(f"/set/a/{name.format(i)}", i, 9, 9, [Annotation(label, (0, 0, 9, 9), 0) for label in own], "x")
        for i, own in enumerate(labels)
    ]
    return AnnotatedSet("set", tuple(sorted({label for own in labels for label in own})), images)


def images_with(data, names):
    chosen = [image for image, name in zip(data.images, image_names(data)) if name in names]
    return Counter(label for image in chosen for label in {a.label for a in image.annotations})


def test_every_class_and_the_background_get_their_share():
    data = make([["cat"]] * 100 + [["cat", "dog"]] * 20 + [["ant"]] * 5 + [[]] * 40)
    held_out = hold_out(data, {}, 0.2, seed=0)
    assert len(held_out) == 33
    assert images_with(data, held_out) == {"cat": 24, "dog": 4, "ant": 1}


def test_a_class_with_one_image_stays_in_training():
    data = make([["cat"]] * 9 + [["rare"]])
    assert all(images_with(data, hold_out(data, {}, 0.3, seed))["rare"] == 0 for seed in range(10))


def test_the_split_follows_from_the_seed():
    data = make([["cat"], ["dog"]] * 20)
    assert hold_out(data, {}, 0.2, 3) == hold_out(data, {}, 0.2, 3) != hold_out(data, {}, 0.2, 4)


def test_copies_are_held_out_together():
    data = make([["cat"]] * 60)
    for i, image in enumerate(data.images):
        image.file_name = f"/set/a/photo{i // 6}_jpg.rf.{i:032x}.jpg"
    digests = {image.file_name: bytes([i % 50]) for i, image in enumerate(data.images)}  # 50 to 59 equal 0 to 9
    held_out = set(hold_out(data, digests, 0.2, seed=1))
    groups = groups_of_copies(data, digests)
    assert len(groups) == 7  # of 10 photographs: equal pixels join 0, 1, 8 and 9
    names = image_names(data)
    assert all(len({names[i] in held_out for i in group}) == 1 for group in groups)
    assert len(held_out) == 12


def test_a_set_with_one_photograph_of_an_object_is_not_split():
    assert hold_out(make([["cat"]] * 3, name="p_jpg.rf." + HASH[:-1] + "{}.jpg"), {}, 0.5, 0) == ()
    assert hold_out(make([["cat"], [], [], []]), {}, 0.5, 0) == ()


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("labels", [[["cat"], ["dog"]], [["cat"], ["dog"], [], []], [["a"], ["b"], ["c"]]])
def test_both_sides_have_a_box(labels, fraction):
    for seed in range(5):
        data = make(labels)
        held_out = images_with(data, hold_out(data, {}, fraction, seed))
        assert 0 < sum(held_out.values()) < sum(map(len, labels))


def test_a_small_fraction_still_holds_out_an_image():
    assert len(hold_out(make([["cat"]] * 4), {}, 0.01, 0)) == 1


def test_both_sides_together_are_the_set():
    sides = []
    for validation in (False, True):
        data = make([["cat"]] * 10)
        keep_part(data, ["3.jpg", "7.jpg"], validation, Findings())
        sides.append([image.image_id for image in data.images])
    assert sides == [[0, 1, 2, 4, 5, 6, 8, 9], [3, 7]]


@pytest.mark.parametrize("validation", [False, True])
def test_names_that_do_not_fit_are_no_silent_split(validation):
    with pytest.raises(UserError, match=r"has none of the 2 images of DATASETS.VAL_IMAGES"):
        keep_part(make([["cat"]] * 10), ["a/3.jpg", "a/7.jpg"], validation, Findings())
    keep_part(make([["cat"]] * 10), ["3.jpg", "gone.jpg"], validation, findings := Findings())
    assert "1 images of DATASETS.VAL_IMAGES that are no longer in the set" in str(findings.all[0])


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (f"/x/dog_png_jpg.rf.{HASH}.jpg", "dog_png_jpg"),
        (f"a.rf.b.rf.{HASH}.png", "a.rf.b"),
        ("dog.jpg", ""),
        ("dog.rf.jpg", ""),
    ],
)
def test_roboflows_names_tell_the_photograph(name, source):
    assert roboflow_source(name) == source


def test_roboflows_copies_on_both_sides_are_found():
    assert shared_sources([f"/t/p_jpg.rf.{HASH}.jpg"], [f"/v/p_jpg.rf.{HASH[::-1]}.jpg", "/v/q.jpg"]) == [
        f"/v/p_jpg.rf.{HASH[::-1]}.jpg ~ /t/p_jpg.rf.{HASH}.jpg"
    ]
