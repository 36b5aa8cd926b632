"""Twenty kills -9 of one run, half of them inside a checkpoint's write. Minutes; for ``make soak``."""

import pytest

pytest.importorskip("detectron2")

from tests.engine.test_kill import kill_loop
from tests.engine.tiny import make_config, make_set


def test_twenty_kills_cost_nothing(tmp_path):
    data, config = make_set(tmp_path / "data"), make_config(tmp_path)
    words = ("--config-file", config, "--train", data, "--val", data)
    assert kill_loop(words, tmp_path, kills=20) >= 10
