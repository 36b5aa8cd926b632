"""What tools write for a truth value, an id, a number and a name."""

import pytest

from fa_detectron.data.values import class_name, flag, identity, lookalike_key, number


@pytest.mark.parametrize(
    "value", [None, False, 0, 0.0, "0", "0.0", "", " ", "false", "False", "FALSE", "no", "No", "off", "Unspecified"]
)
def test_values_that_mean_no(value):
    assert flag(value) is False


@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "1.0", "true", "True", "yes", "YES", " y ", "on"])
def test_values_that_mean_yes(value):
    assert flag(value) is True


@pytest.mark.parametrize("value", ["maybe", 2, -1, "2", 0.5, "nan", float("nan"), [], {}, [1], "Frontal", 10**400])
def test_values_that_mean_neither(value):
    assert flag(value) is None


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (1, 1), (1.0, 1), ("1", 1), (" 1 ", 1), ("-3", -3), ("0", 0), ("01", "01"), ("1.0", "1.0"), ("a.jpg", "a.jpg"),
        ("", None), (" ", None), (None, None), (True, None), (1.5, None), (float("inf"), None), (float("nan"), None),
        ([1], None), ({}, None), ("9" * 30, "9" * 30),
    ],
)  # fmt: skip
def test_ids_are_compared_by_value(value, wanted):
    assert identity(value) == wanted and type(identity(value)) is type(wanted)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [("4", 4.0), (4, 4.0), (" 4.5", 4.5), ("x", None), ("nan", None), (True, None), (None, None), (10**400, None)],
)
def test_numbers(value, wanted):
    assert number(value) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("cat", "cat"), ("\ufeffcat ", "cat"), ("e\u0301", "\u00e9"), (7, "7"), (7.0, "7"), (0.5, "0.5"), ("0", "0"),
        (True, ""), (None, ""), (" ", ""), ("\ufeff", ""), (["cat"], ""),
    ],
)  # fmt: skip
def test_names(value, wanted):
    assert class_name(value) == wanted


@pytest.mark.parametrize(
    "names",
    [
        ("Varroa", "varroa"), ("fire truck", "fire_truck", "Fire-Truck", "firetruck"), ("a  b", "a b"), ("Cat", "cat"),
        ("c\u0430t", "cat"), ("cell1", "cell 1", "Cell_1"), ("\uff43at", "cat"), ("STRASSE", "straße"), ("\u0410", "A"),
    ],
)  # fmt: skip
def test_names_that_look_alike(names):
    assert len({lookalike_key(name) for name in names}) == 1


@pytest.mark.parametrize(
    "names", [("x", "X"), ("x", "x-"), ("-", "--"), ("1-2", "12"), ("cat", "cats"), ("1", "2"), ("-1", "1")]
)
def test_names_that_are_different(names):
    assert len({lookalike_key(name) for name in names}) == len(names)
