"""What is likely a mistake in the classes of a set, and that training says it, too."""

import logging

import pytest

from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
from fa_detectron.data.checks.classes import check_classes, check_labels
from fa_detectron.data.findings import Findings
from fa_detectron.errors import UserError
from tests.data.conftest import voc_object
from tests.data.reading import read


def said(data) -> list[str]:
    check_labels(data, findings := Findings(strict=True))
    return [str(finding) for finding in findings.all]


def _rename(first: str, second: str):
    return lambda content: [item.update(name=name) for item, name in zip(content["categories"], (first, second))]


def _crowd(*indices: int):
    return lambda content: [content["annotations"][i].update(iscrowd="true") for i in indices]


@pytest.mark.parametrize(("first", "second"), [("Varroa", "varroa"), ("fire truck", "fire_truck"), ("c\u0430t", "cat")])
def test_names_that_look_alike_are_a_likely_mistake(coco, check, first, second):
    path = coco(_rename(first, second))
    status, text, _ = check(path)
    assert status == 1 and "Training refuses: nothing" in text
    assert f"1 groups of classes whose names look alike; each name is a class:\n  {second!r}, {first!r}" in text


def test_other_names_are_not(coco):
    assert said(read(coco(_rename("x", "X")))) == []


def test_in_voc_as_well(voc):
    names = ("Varroa", "varroa", "bee")
    folder = voc({"a": "".join(voc_object(name, (1, 1, 9, 9)) for name in names)}, {"train": ["a"]})
    assert "'Varroa', 'varroa'" in said(read(folder))[0]


def test_a_class_of_crowd_boxes_alone(coco, check):
    path = coco(_crowd(0, 2))
    status, text, _ = check(path)
    assert status == 1 and "1 classes with only crowd (ignored, difficult) boxes" in text and "cat: 2 boxes" in text
    assert "classes without a box to learn from" not in text  # once is enough


def test_a_set_of_crowd_boxes_alone(coco, check, config, caplog):
    path = coco(_crowd(0, 1, 2))
    (only,) = said(read(path))
    assert "all of its 3 boxes are crowd" in only
    assert check(path)[0] == 1
    cfg = config()
    resolve_data_arguments(cfg, coco(name="train"), coco(_crowd(0, 1, 2), name="val"))
    register_from_config(cfg)
    with caplog.at_level(logging.WARNING, logger="fa_detectron"):
        check_data(cfg, training=True)
    assert "val.json: all of its 3 boxes are crowd" in caplog.text
    cfg = config()
    resolve_data_arguments(cfg, coco(_crowd(0, 1, 2)))
    register_from_config(cfg)
    with pytest.raises(UserError, match="none of its 3 images has a box to learn from"):
        check_data(cfg, training=True)


def test_an_unknown_class_that_looks_like_a_known_one(coco):
    with pytest.raises(UserError, match=r"'cat': 2 boxes, first: .* \(did you mean 'Cat'\?\)"):
        check_classes(read(coco()), ["ant", "Cat"], Findings(strict=True))
