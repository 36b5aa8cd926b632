"""The package that reads XML safely is an extra: without it all other formats work."""

import subprocess
import sys

import pytest

pytest.importorskip("detectron2")

from tests.data.conftest import voc_object

CODE = """
import sys
sys.modules["defusedxml"] = None  # not installed
from fa_detectron.data.findings import Findings
from fa_detectron.errors import UserError
from fa_detectron.data.sources.find import parse_source
from fa_detectron.data.readers import read_annotated_set
from fa_detectron.data.records import ReadOptions
try:
    data = read_annotated_set(parse_source(sys.argv[1], "train"), ReadOptions(), Findings(strict=True))
    print(len(data.images), "images")
except UserError as error:
    print(error)
"""


def read_without_the_package(path: str) -> str:
    return subprocess.run([sys.executable, "-c", CODE, path], capture_output=True, text=True, check=True).stdout


def test_other_formats_need_no_xml_package(coco):
    assert read_without_the_package(coco()).endswith("3 images\n")


def test_xml_names_the_package_that_is_missing(voc):
    folder = voc({"a": voc_object("cat", (1, 1, 9, 9))}, {"train": ["a"]})
    assert "pip install defusedxml" in read_without_the_package(folder)
