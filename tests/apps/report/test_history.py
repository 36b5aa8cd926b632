"""Curves from metrics.json, and charts as numbers."""

import json

import pytest

pytest.importorskip("detectron2")

from fa_detectron.apps.report.chart import HEIGHT, WIDTH, make_chart, ticks
from fa_detectron.apps.report.history import read_history, select_ap, select_losses


def write(folder, *lines):
    (folder / "metrics.json").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")


def loss(iteration, value):
    return {"iteration": iteration, "total_loss": value, "loss_pos": value / 2, "lr": 0.1}


def test_iterations_are_counted_as_done(tmp_path):
    # The evaluation after 50 of 100 iterations is noted later than the losses, the last one with the number 100.
    write(tmp_path, loss(19, 3.0), loss(59, 2.0), {"iteration": 49, "bbox/AP": 10.0}, loss(99, 1.0),
          {"iteration": 100, "bbox/AP": 20.0, "bbox/AP-cat": 20.0})  # fmt: skip
    history = read_history(str(tmp_path), 100)
    assert history["total_loss"] == {20: 3.0, 60: 2.0, 100: 1.0}
    assert select_ap(history, "set") == {"AP": {50: 10.0, 100: 20.0}, "AP-cat": {100: 20.0}}
    assert list(select_losses(history)) == ["total_loss", "loss_pos"]


def test_a_second_run_in_the_folder_replaces_what_it_repeats(tmp_path):
    write(tmp_path, loss(19, 3.0), loss(39, 2.0), {"iteration": 40, "bbox/AP": 10.0}, loss(19, 5.0))
    history = read_history(str(tmp_path), 40)
    assert history["total_loss"] == {20: 5.0} and select_ap(history, "") == {}


def test_damaged_lines_and_values_are_passed_over(tmp_path):
    write(tmp_path, loss(19, 3.0), '{"iteration": 39, "total_loss": NaN}', "[1]", "{}", '{"iteration": 59, "total_lo')
    assert read_history(str(tmp_path), 60)["total_loss"] == {20: 3.0}
    assert read_history(str(tmp_path / "nowhere"), 60) == {}


def test_of_several_sets_the_named_one_counts(tmp_path):
    write(tmp_path, {"iteration": 9, "a/bbox/AP": 1.0, "b/bbox/AP": 2.0})
    assert select_ap(read_history(str(tmp_path), 10), "b") == {"AP": {10: 2.0}}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 600, [0, 200, 400, 600]),
        (0, 0.00095, [0, 0.0002, 0.0004, 0.0006, 0.0008]),
        (0, 90000, [0, 20000, 40000, 60000, 80000]),
        (0, 1.3, [0, 0.5, 1]),
    ],
)
def test_ticks_are_few_and_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_chart_stays_in_its_frame_and_keeps_the_last_point():
    points = {i: 1 / (i + 1) for i in range(5000)}
    chart = make_chart("t", {"a": points, "b": {}}, x_label="x", x_range=(0, 4999))
    (line,) = chart.lines
    places = [tuple(map(float, pair.split(","))) for pair in line.points.split()]
    assert len(places) <= 201 and places[-1] == line.end
    left, top, right, bottom = chart.frame
    assert all(left <= x <= right and top <= y <= bottom for x, y in places)
    assert line.end[0] == right and 0 < right < WIDTH and 0 < bottom < HEIGHT
    assert make_chart("t", {"b": {}}, x_label="x", x_range=(0, 1)) is None
