"""Error types of constructed cases and, without crowds, of random ones against hotcoco's implementation of TIDE."""

import hotcoco
import pytest

from rtdetr.evaluation.error_kinds import DETECTION_KINDS, KINDS
from tests.evaluation.scenes import APART, SQUARE, random_scene, scene_report, shifted

ONE_CAT = [("cat", SQUARE)]


@pytest.mark.parametrize(
    ("kind", "objects", "found"),
    [
        ("localization", ONE_CAT, [("cat", shifted(SQUARE, 50), 0.9)]),
        ("class", ONE_CAT, [("dog", shifted(SQUARE, 25), 0.9)]),
        ("duplicate", ONE_CAT, [("cat", SQUARE, 0.9), ("cat", shifted(SQUARE, 25), 0.8)]),
        ("background", ONE_CAT, [("cat", SQUARE, 0.9), ("cat", APART, 0.8)]),
        ("background", [], [("cat", SQUARE, 0.9)]),
        ("both", ONE_CAT, [("cat", SQUARE, 0.9), ("dog", shifted(SQUARE, 50), 0.8)]),
        ("missed", ONE_CAT, []),
        ("missed", ONE_CAT, [("cat", APART, 0.4)]),
    ],
)
def test_one_error_of_each_kind(tmp_path, kind, objects, found):
    report = scene_report(tmp_path, [objects], [found])
    counts = dict(report.errors.counts)
    if kind == "missed" and found:
        assert counts.pop("background") == 1
        counts["background"] = 0
    assert counts == {**dict.fromkeys(KINDS, 0), kind: 1}
    if kind != "missed":
        kinds = report.matches.kinds
        assert [DETECTION_KINDS[i] for i in kinds[kinds >= 0]] == [kind]


def test_costs_of_correctable_errors(tmp_path):
    objects = [[("cat", SQUARE)], [("cat", SQUARE)], [("dog", SQUARE)], [("dog", SQUARE)]]
    found = [
        [("cat", SQUARE, 0.9)],
        [("cat", shifted(SQUARE, 50), 0.8), ("cat", shifted(SQUARE, -40), 0.7)],  # the better one becomes right
        [("dog", SQUARE, 0.9)],
        [("bird", SQUARE, 0.8)],
    ]
    errors = scene_report(tmp_path, objects, found).errors
    assert errors.counts == {
        "localization": 2, "class": 1, "duplicate": 0, "background": 0, "both": 0, "missed": 0
    }  # fmt: skip
    half = 50 / 101  # a class of two objects goes from AP 51/101 to 1, one of two classes
    expected = {**dict.fromkeys(KINDS, 0), "localization": half / 2, "class": half / 2}
    assert errors.ap50_cost == pytest.approx(expected)


def test_costs_of_removed_errors(tmp_path):
    objects = [[("cat", SQUARE)], [("cat", SQUARE)], []]
    found = [[("cat", SQUARE, 0.5), ("cat", APART, 0.9)], [("cat", SQUARE, 0.8), ("cat", SQUARE, 0.7)], []]
    errors = scene_report(tmp_path, objects, found).errors
    # wrong, right, duplicate, right: precision 1/2 up to recall 0.5, then 1/2
    assert errors.counts == {**dict.fromkeys(KINDS, 0), "background": 1, "duplicate": 1}
    assert errors.ap50_cost["background"] == pytest.approx(51 / 101 + 50 / 101 * 2 / 3 - 0.5)
    assert errors.ap50_cost["duplicate"] == pytest.approx(2 / 3 - 0.5)
    assert errors.ap50_cost["missed"] == 0


def test_a_missed_object_costs_its_recall(tmp_path):
    errors = scene_report(tmp_path, [ONE_CAT, ONE_CAT], [[("cat", SQUARE, 0.9)], []]).errors
    assert errors.counts["missed"] == 1
    assert errors.ap50_cost["missed"] == pytest.approx(50 / 101)


def test_an_error_cannot_find_an_object_that_is_found(tmp_path):
    errors = scene_report(tmp_path, [ONE_CAT], [[("dog", SQUARE, 0.95), ("cat", SQUARE, 0.9)]]).errors
    assert errors.counts["class"] == 1
    assert errors.ap50_cost["class"] == 0  # there are no dogs


def test_detections_on_crowds_are_no_errors(tmp_path):
    errors = scene_report(tmp_path, [[("cat", SQUARE, "crowd")]], [[("cat", SQUARE, 0.9)]]).errors
    assert errors.counts == dict.fromkeys(KINDS, 0)
    assert errors.ap50_cost == dict.fromkeys(KINDS)


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_agree_with_hotcoco(tmp_path, seed):
    report = random_scene(tmp_path, seed=seed)
    truth = hotcoco.COCO(str(report.evaluator.dataset.annotations_file))
    evaluation = hotcoco.COCOeval(truth, truth.load_res(report.detections), "bbox")
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    names = dict(zip(KINDS, ("Loc", "Cls", "Dupe", "Bkg", "Both", "Miss"), strict=True))
    assert report.errors.counts == {kind: theirs["counts"][name] for kind, name in names.items()}
    costs = {kind: theirs["delta_ap"][name] for kind, name in names.items()}
    assert report.errors.ap50_cost == pytest.approx(costs, abs=1e-9)
    assert min(report.errors.counts.values()) > 0
