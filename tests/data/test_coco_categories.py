"""Which categories of a COCO file are classes."""

import pytest

from fa_detectron.data.findings import NOTE, PROBLEM, Findings
from fa_detectron.errors import UserError
from tests.data.reading import read


@pytest.fixture
def categories(coco):
    """categories([(id, name, supercategory)], [ids of three boxes]) -> path of a COCO file."""

    def make(entries, boxes) -> str:
        def edit(content):
            content["categories"] = [dict(zip(("id", "name", "supercategory"), entry)) for entry in entries]
            for annotation, category in zip(content["annotations"], boxes):
                annotation["category_id"] = category

        return coco(edit)

    return make


def found(path: str):
    """The classes, and what is said: [(kind, words)]."""
    data = read(path, findings=(findings := Findings()))
    labels = [a.label for image in data.images for a in image.annotations]
    return data.classes, labels, [(finding.kind, str(finding)) for finding in findings.all]


@pytest.mark.parametrize(
    ("entries", "boxes", "classes", "roots"),
    [
        ([(0, "pets", "none"), (1, "cat", "pets"), (2, "ant", "pets")], (1, 2, 2), ("cat", "ant"), 1),  # Roboflow
        ([(0, "cat", "none"), (1, "cat", "cat")], (1, 1, 1), ("cat",), 1),  # its root, named as the class itself
        ([(0, "cat", "none"), (1, "cat", "cat"), (2, "ant", "cat")], (2, 2, 2), ("cat", "ant"), 1),
        ([(0, "a", "none"), (1, "b", "a"), (2, "cat", "b")], (2, 2, 2), ("cat",), 2),
        ([(1, "person", "person"), (2, "car", "vehicle")], (1, 1, 1), ("person", "car"), 0),  # COCO
        ([(1, "vehicle", "vehicle"), (2, "car", "vehicle")], (2, 2, 2), ("vehicle", "car"), 0),
        ([(0, "pets", "none"), (1, "cat", "pets")], (0, 1, 1), ("pets", "cat"), 0),  # with a box, it is a class
        ([(1, "cat", "ant"), (2, "ant", "cat"), (3, "ox", "")], (3, 3, 3), ("ox",), 2),
    ],
)
def test_roots_are_left_out(categories, entries, boxes, classes, roots):
    names, labels, said = found(categories(entries, boxes))
    assert names == classes and labels == [dict((e[0], e[1]) for e in entries)[i] for i in boxes]
    assert [kind for kind, _ in said] == [NOTE] * bool(roots)
    assert all(f"{roots} categories left out: without a box, and only the supercategory" in words for _, words in said)


def test_a_root_leaves_the_exit_status_alone(categories, check):
    path = categories([(0, "pets", "none"), (1, "cat", "pets")], (1, 1, 1))
    status, text, content = check(path)
    assert status == 0, text
    assert list(content["sets"]["training"]["classes"]) == ["cat"]
    assert text.count("categories left out") == 1 and "'pets' (id 0)" in text


def test_categories_of_one_name_are_one_class(categories):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    names, labels, said = found(categories([(1, composed), (2, decomposed), (3, "ant")], (1, 2, 3)))
    assert names == (composed, "ant") and labels == [composed, composed, "ant"]
    assert (
        said == [(PROBLEM, said[0][1])]
        and f"several categories share: taken as one class:\n  {composed!r}: ids 1, 2" in said[0][1]
    )


def test_of_namesakes_the_one_with_boxes_counts(categories):
    data = read(categories([(1, "cat", "x"), (2, "cat", "y")], (2, 2, 2)))
    assert data.classes == ("cat",) and data.category_ids == (2,)


def test_namesakes_of_different_supercategories_are_refused(categories):
    with pytest.raises(
        UserError, match=r"1 names that categories of different supercategories share:\n  'other': ids 1, 2"
    ):
        read(categories([(1, "other", "animal"), (2, "other", "vehicle")], (1, 2, 2)))


def test_an_entry_twice_is_one_category(categories):
    names, _, said = found(categories([(1, "cat"), ("1", "cat"), (2, "ant")], (1, 2, 2)))
    assert names == ("cat", "ant") and said == []


@pytest.mark.parametrize("empty", [[], None])
def test_without_categories_the_annotations_tell_the_classes(coco, empty):
    names, labels, said = found(coco(lambda c: c.update(categories=empty)))
    assert names == ("2", "5") and labels == ["5", "2", "5"]
    assert said == [(NOTE, said[0][1])] and "has no categories: its classes are called by their ids, 2, 5" in said[0][1]


def test_without_any_category_there_is_one_class(coco):
    def edit(content):
        del content["categories"]
        for annotation in content["annotations"]:
            del annotation["category_id"]

    names, labels, said = found(coco(edit))
    assert names == ("object",) and labels == ["object"] * 3 and "called 'object'" in said[0][1]


def test_an_annotation_without_a_category_is_of_the_only_class(categories):
    names, labels, said = found(categories([(4, "cat")], (4, None, 4)))
    assert names == ("cat",) and labels == ["cat"] * 3
    assert said == [(NOTE, said[0][1])] and "without a category_id are 'cat', the only class" in said[0][1]


def test_an_annotation_without_a_category_is_refused_among_several(categories):
    with pytest.raises(UserError, match=r"annotations\[1\] \(id 12\): image_id 1, category_id None"):
        read(categories([(4, "cat"), (5, "ant")], (4, None, 5)))
