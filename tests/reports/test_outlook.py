"""What would raise AP: the forecast of known curves, and each sentence when it applies and only then."""

import json
import math
from typing import Any

import numpy as np
import pytest

from rtdetr.reports.outlook import EXPECTED, INTERVAL, MIN_AP, STEEPEST, RunNumbers, forecast, outlook

STEPS = range(100, 1001, 100)


def curve_of(ap, steps=STEPS):
    """The evaluations of a run of 1,000 steps whose AP is a function of the fraction of its steps."""
    return [(step, float(ap(step / 1000))) for step in steps]


def logistic(x, rise=0.5):
    return 1 / (1 + math.exp(2 - rise * math.log2(x)))


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_a_straight_line_of_logits_is_extended(factor):
    found = forecast(curve_of(logistic), 1000, factor=factor)
    expected = [logistic(factor ** (EXPECTED * ratio)) - logistic(1) for ratio in (1.0, *INTERVAL)]
    assert found == pytest.approx(tuple(expected))


def test_a_steep_end_is_not_extended_as_steeply():
    steep, flatter = (forecast(curve_of(lambda x, p=p: 0.06 * x**p), 1000) for p in (4.0, 3.0))
    assert steep is not None and flatter is not None
    gain = 1 / (1 + math.exp(-math.log(0.06 / 0.94) - STEEPEST)) - 0.06
    assert steep.gain == pytest.approx(gain, rel=0.05) == flatter.gain


@pytest.mark.parametrize(
    "ap",
    [
        lambda x: 0.06 * x,
        lambda x: 0.06 * x**0.5,
        lambda x: 0.2 * x**0.6,
        lambda x: 0.6 - 0.1 * x**-0.5,
        lambda x: 0.5 - 0.05 * x**-1.0,
    ],
)
def test_the_gain_of_power_laws_is_in_the_interval(ap):
    found, real = forecast(curve_of(ap), 1000), ap(2.0) - ap(1.0)
    assert found is not None and found.low < real < found.high
    assert 0.5 * real < found.gain < 2 * real


def test_flat_and_falling_curves_gain_nothing():
    assert forecast(curve_of(lambda x: 0.4), 1000) == pytest.approx((0, 0, 0))
    falling = forecast(curve_of(lambda x: 0.5 - 0.1 * x), 1000)
    assert falling is not None and falling.gain == 0 and falling.low <= 0 <= falling.high < 0.01


def test_scattered_evaluations_widen_the_interval():
    noise = np.random.default_rng(0).normal(0, 0.02, len(STEPS))
    smooth = curve_of(lambda x: 0.3 * x**0.5)
    rough = [(step, ap + more) for (step, ap), more in zip(smooth, noise, strict=True)]
    one, other = forecast(smooth, 1000), forecast(rough, 1000)
    assert one is not None and other is not None
    assert other.high - other.low > one.high - one.low + 0.03


def test_the_gain_never_leads_beyond_an_ap_of_1():
    found = forecast(curve_of(lambda x: 0.98 * x**0.3), 1000)
    assert found is not None and 0 <= found.gain <= found.high <= 0.02 + 1e-9


@pytest.mark.parametrize(
    "curve",
    [
        [],
        [(1000, 0.5)],
        [(100, 0.1), (200, 0.2), (300, 0.3), (400, 0.4), (1000, 0.5)],  # two in the second half
        [(600, 0.5), (800, math.nan), (900, -1.0), (1000, 0.5)],
        curve_of(lambda x: 0.9 * MIN_AP * x),
    ],
)
def test_curves_that_do_not_tell(curve):
    assert forecast(curve, 1000) is None


def test_evaluations_without_a_value_are_left_out():
    curve = curve_of(logistic)
    assert forecast([*curve, (950, math.nan), (970, -1.0)], 1000) == forecast(curve, 1000)


RISING = curve_of(lambda x: 0.4 * x**0.5)
FLAT = curve_of(lambda x: 0.4)
RUN = RunNumbers(
    curve=FLAT,
    num_steps=1000,
    epochs=20,
    size_hw=(480, 640),
    val_ap=0.4,
    num_objects=(300, 300),
    num_val=100,
    folder="runs/a b",
    same_run="rtdetr train -c 'runs/a b/config.json'",
    larger_model="rtdetr train DATA --weights rtdetrv2_r34vd",
)


def evaluation(
    *, worst: str = "missed", cost=0.2, small: float | None = 0.1, large: float | None = 0.5, confused=30
) -> dict[str, Any]:
    errors = dict.fromkeys(("localization", "class", "background", "missed"), 0.01) | {worst: cost}
    counts = [[50, confused, 20], [5, 90, 5], [10, 10, 0]]
    return {
        "metrics": {"ap_small": small, "ap_medium": None, "ap_large": large},
        "errors": {kind: {"count": 9, "ap50_cost": value} for kind, value in errors.items()},
        "confusion": {"names": ["car", "truck", "background"], "counts": counts},
    }


SHARED = (
    "51 of the 100 validation images are training images too, so the AP does not show how well the model works "
    "on new images. Give separate validation images with --val-data"
)


def first_words(**changes):
    found = outlook(RUN._replace(**changes))
    assert found is not None and len(found.advice) <= 3
    return [advice.text.partition(":")[0].partition(" cost")[0] for advice in found.advice]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"curve": RISING}, ["More epochs would help"]),
        ({"curve": FLAT}, ["More epochs would hardly help"]),
        ({"curve": curve_of(lambda x: 0.3 + 0.1 * x + 0.04 * (-1) ** round(10 * x))}, ["More epochs may help"]),
        ({"curve": [(1000, 0.4)]}, ["Too few evaluations to tell whether more epochs would help"]),
        ({"evaluations_since_best": 5}, ["More epochs would not help"]),
        ({"train_ap": 0.6}, ["More epochs would hardly help", "More images would help"]),
        ({"train_ap": 0.6, "curve": RISING}, ["More epochs would help", "More images would help"]),
        ({"train_ap": 0.6, "num_objects": (29, 300)}, ["More epochs would hardly help"]),
        ({"train_ap": math.nan}, ["More epochs would hardly help"]),
        ({"train_ap": -1.0}, ["More epochs would hardly help"]),
        ({"train_ap": 0.42}, ["More epochs would hardly help", "A larger model may help more than more images"]),
        ({"train_ap": 0.42, "curve": RISING}, ["More epochs would help", "More images alone would hardly help"]),
        ({"train_ap": 0.48, "curve": RISING}, ["More epochs would help"]),
        ({"train_ap": 0.75, "val_ap": 0.72}, ["More epochs would hardly help", "More images alone would hardly help"]),
        ({"num_shared": 51, "train_ap": 0.6, "evaluation": evaluation()}, [SHARED]),
        ({"num_shared": 50}, ["More epochs would hardly help"]),
        ({"evaluation": evaluation()}, ["More epochs would hardly help", "Larger images may help"]),
        ({"evaluation": evaluation(worst="localization")}, ["More epochs would hardly help", "Larger images may help"]),
        ({"evaluation": evaluation(cost=0.04)}, ["More epochs would hardly help"]),
        ({"evaluation": evaluation(large=0.15)}, ["More epochs would hardly help"]),
        ({"evaluation": evaluation(large=None)}, ["More epochs would hardly help", "Larger images may help"]),
        ({"evaluation": evaluation(small=None)}, ["More epochs would hardly help"]),
        ({"evaluation": evaluation(worst="background")}, ["More epochs would hardly help"]),
        ({"evaluation": evaluation(worst="class")}, ["More epochs would hardly help", "Wrong classes"]),
        ({"evaluation": {"errors": {"missed": {"count": 0, "ap50_cost": None}}}}, ["More epochs would hardly help"]),
    ],
)  # fmt: skip
def test_sentences(changes, words):
    assert first_words(**changes) == words


@pytest.mark.parametrize("val_ap", [None, -1.0, math.nan])
def test_nothing_is_said_without_an_ap(val_ap):
    assert outlook(RUN._replace(val_ap=val_ap)) is None


def test_a_run_that_has_hardly_begun_gets_one_sentence():
    curve = curve_of(lambda x: 0.002 * x)
    found = outlook(RUN._replace(curve=curve, val_ap=0.002, train_ap=0.002, evaluation=evaluation()))
    assert found is not None and found.forecast is None
    assert [one.text for one in found.advice] == [
        "AP is only 0.2; below 5.0, a curve does not tell what more epochs would bring. Train longer: --epochs 40"
    ]


def test_sentences_have_their_numbers_and_commands():
    found = outlook(RUN._replace(curve=RISING, train_ap=0.6, evaluation=evaluation(worst="class")))
    assert found is not None and found.forecast is not None
    gain, low, high = (f"{100 * value:+.1f}" for value in found.forecast)
    epochs, images, classes = found.advice
    assert epochs.text == (
        f"More epochs would help: with 40 epochs instead of 20, the AP of 40.0 would change by about {gain} "
        f"(likely {low} to {high})."
    )
    assert epochs.command == "rtdetr train -c 'runs/a b/config.json' --epochs 40 --output 'runs/a b-40-epochs'"
    assert "60.0 on training images and 40.0 on validation images" in images.text
    assert images.command == "rtdetr train -c 'runs/a b/config.json' --output 'runs/a b-more-images'"
    assert "cost 20.0 AP50, most often 'car' detected as 'truck': 30 of 100 objects" in classes.text
    assert classes.command is None


def test_a_larger_size_is_a_multiple_of_32():
    found = outlook(RUN._replace(evaluation=evaluation()))
    assert found is not None
    assert found.advice[1].text == (
        "Larger images may help: missed objects cost 20.0 AP50, and small objects have an AP of 10.0, AP of larger "
        "ones 50.0. Try --size 736x960"
    )
    assert (found.advice[1].command or "").endswith("--size 736x960 --output 'runs/a b-736x960'")


def test_confusions_need_two_classes_and_an_error():
    assert first_words(evaluation=evaluation(worst="class", confused=0))[1:] == ["Wrong classes"]  # the other way round
    one = evaluation(worst="class") | {"confusion": {"names": ["car", "background"], "counts": [[5, 1], [1, 0]]}}
    assert first_words(evaluation=one)[1:] == []
    none = evaluation(worst="class")
    none["confusion"]["counts"] = np.diag([5, 5, 0]).tolist()
    assert first_words(evaluation=none)[1:] == []


def test_without_paths_there_are_no_commands():
    found = outlook(RUN._replace(curve=RISING, train_ap=0.6, same_run=None))
    assert found is not None and [one.command for one in found.advice] == [None, None]


def test_values_for_json():
    found = outlook(RUN._replace(curve=RISING, train_ap=0.6))
    assert found is not None and found.forecast is not None
    values = json.loads(json.dumps(found.to_json()))
    assert values["forecast"] == found.forecast._asdict() and values["val_ap"] == 0.4 and values["train_ap"] == 0.6
    assert [one["text"] for one in values["advice"]] == [one.text for one in found.advice]
    without = outlook(RUN._replace(curve=[(1000, 0.4)]))
    assert without is not None and without.to_json()["forecast"] is None
