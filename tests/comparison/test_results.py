"""Means, spread, order and verdict of a comparison with known numbers."""

import re

import pytest
from PIL import Image

from rtdetr.comparison import Comparison, Evaluation


def run(*aps: float, seconds: float = 10.0) -> list[Evaluation]:
    """Evaluations after 50, 100, ... steps."""
    return [Evaluation(50 * i, seconds * i, ap, ap + 0.2, -1.0) for i, ap in enumerate(aps, start=1)]


SLOW = [run(0.1, 0.5, seconds=20), run(0.2, 0.7, seconds=20)]
FAST = [run(0.3, 0.4), run(0.3, 0.5)]


def test_means_and_their_spread() -> None:
    found = Comparison(100, 4, {"fast": FAST, "slow": SLOW})
    assert found.ranking() == ["slow", "fast"] and found.num_seeds == 2
    assert found.final("slow") == pytest.approx((0.6, 0.2 / 2**0.5))
    assert found.difference("slow", "fast") == pytest.approx((0.15, (0.02 + 0.005) ** 0.5 / 2**0.5))
    assert found.seconds("slow") == 40 and found.shortest_seconds == 20


def test_equal_time_is_that_of_the_fastest_recipe() -> None:
    found = Comparison(100, 4, {"fast": FAST, "slow": SLOW})
    assert found.at_equal_time("fast") == found.final("fast")
    assert found.at_equal_time("slow").value == pytest.approx(0.15)  # after 50 of its 100 steps
    uneven = Comparison(100, 4, {"fast": [run(0.3, 0.4, seconds=5), run(0.3, 0.5, seconds=15)], "slow": SLOW})
    assert uneven.at_equal_time("fast") == uneven.final("fast")
    early = Comparison(100, 4, {"fast": FAST, "slow": [run(0.4, seconds=40), run(0.2, seconds=40)]})
    assert early.at_equal_time("slow").value == pytest.approx(0.15)  # half of its first evaluation


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ({"a": [run(0.5), run(0.52)], "b": [run(0.3), run(0.31)]}, r"a is best: \+20.5 AP compared with b, .* 1\.1"),
        ({"a": FAST, "b": SLOW}, r"no recipe is best: b has \+15.0 AP compared with a, .* standard error of 11.2"),
        ({"a": [run(0.4)], "b": [run(0.5)]}, "b is first .*one seed does not show"),
        ({"a": [run(0.4), run(0.4)], "b": [run(0.4), run(0.4)]}, "no recipe is best"),
        ({"a": [run(0.0), run(0.001)], "b": [run(0.0), run(0.0)]}, "100 steps are too few to compare: no recipe reach"),
    ],
)
def test_the_verdict_says_what_the_numbers_allow(runs, words) -> None:
    assert re.match(words, Comparison(100, 4, runs).verdict())


def test_table_and_plot(tmp_path) -> None:
    found = Comparison(100, 4, {"fast": FAST, "slow": SLOW})
    lines = found.table().splitlines()
    assert lines[0] == "100 steps of 4 images, 2 seeds; validation AP in percent"
    assert lines[2].split("  ")[-1] == "s per run" and "AP after 20 s" in lines[2]
    assert lines[3].split() == [*"slow 60.0 ± 14.1 80.0 ± 14.1 - 15.0 ± 7.1 40".split()]
    assert lines[4].split()[0] == "fast"
    with Image.open(found.draw(tmp_path / "plot.png")) as image:
        assert image.width > 1000
    assert found.to_json()["runs"]["fast"][1][0] == FAST[1][0]._asdict()
