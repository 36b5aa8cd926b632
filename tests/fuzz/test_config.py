"""Configs from anywhere: a config or words, no code, no file but those that _BASE_ names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("detectron2")

from fa_detectron.engine import load_config
from fa_detectron.engine.config_file import _leaf_keys
from fa_detectron.errors import UserError
from fa_detectron.modeling.config import check_options
from tests.engine.tiny import BASE
from tests.fuzz.cases import NASTY_TEXTS, example, fuzz, mutate_bytes, nasty

KEYS = sorted(_leaf_keys(load_config(str(BASE))))
FILES = [path.read_bytes() for path in sorted(BASE.parent.rglob("*.yaml"))]
_TAGS = ["!!python/object/apply:os.system [x]", "!!python/name:os.system", "!!binary x", "!!timestamp x", "!!bool x",
         "!!int x",
         "!!float x", "!!set [a]", "2001-99-99", "1:1:1", "&a [*a]", "*nothing", "{<<: 3}", "{<<: [1]}", "? [a]", "|",
         ">", "{[1]: 2}",
         "[" * 2000, "{" * 300, "- " * 500, "!<x> y", "%TAG ! x", "...", "--- 1\n--- 2", "\t", "@", "`",
           "\u2028"]  # fmt: skip
_CALLS = ["__import__('os').system('x')", "{[]: 1}", "-" * 3000 + "1", "[" * 150 + "]" * 150, "1" * 5000, "b'\\x'",
          "'\\ud800'",
          "(1, 2", "lambda: 0", "1e999", "0x", "...", "{1, 2}", "f'{1}'", "1if 1else 1", "()" * 500, "\0"]  # fmt: skip


@st.composite
def texts(draw) -> bytes:
    if draw(st.integers(0, 3)) == 0:
        return mutate_bytes(draw, draw(st.sampled_from(FILES)))
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        key = draw(st.sampled_from([*KEYS, "_BASE_", "VERSION", "MODEL", "NEW_ALLOWED", "x.y", "MODEL.RESNETS.x"]))
        value = draw(st.one_of(st.sampled_from([*_TAGS, *_CALLS]), nasty.map(repr), nasty.map(str)))
        parts = key.split(".")
        lines.append(
            "{" + ": {".join(parts) + ": " + value + "}" * len(parts) if draw(st.booleans()) else f"{key}: {value}"
        )
    data = "\n".join(lines).encode("utf-8", "replace")
    return mutate_bytes(draw, data) if draw(st.integers(0, 3)) == 0 else data


words = st.one_of(
    st.sampled_from([*KEYS, *_CALLS, *NASTY_TEXTS, "--x", "MODEL", "MODEL.", ".", "A.B"]), st.text(max_size=8)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@fuzz
@given(texts())
def test_files(folder, data):
    (folder / "config.yaml").write_bytes(data)
    with example(data, "/"):  # _BASE_ may name any file
        try:
            check_options(load_config(str(folder / "config.yaml")))
        except UserError as error:
            assert "config.yaml" in str(error) or "must be" in str(error)


@fuzz
@given(st.lists(words, max_size=6), st.sampled_from(KEYS), st.one_of(st.sampled_from(_CALLS), nasty.map(str)))
def test_overrides(folder, pairs, key, value):
    (folder / "config.yaml").write_text("SEED: 1\n")
    for overrides in (pairs, [key, value]):
        with example(overrides, "/"):
            try:
                check_options(load_config(str(folder / "config.yaml"), overrides))
            except UserError as error:
                assert str(error)
