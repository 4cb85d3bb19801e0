"""Runs of a comparison: equal budgets, resumed and reused runs, and settings that cannot be compared."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.comparison import compare, runs
from rtdetr.errors import ConfigError, DatasetError, TrainingError
from rtdetr.reports.metrics import read_records
from tests.training.small import config_of, write_folder

TINY = {"model": "test-tiny", "device": "cpu", "workers": 0}


@pytest.fixture
def trained(monkeypatch) -> list[dict]:
    """Replace training by writing the metrics of a finished run; return the settings of each."""
    calls: list[dict] = []

    def train(data: str, settings: dict, threads: int, running: list) -> str | None:
        calls.append({**settings, "threads": threads})
        folder = Path(settings["output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        ap = 0.5 if settings.get("recipe") == "deim" else 0.1
        rows = [
            {"kind": "epoch", "epoch": n, "iteration": 3 * n, "seconds": 2.0, "ap": [ap + 0.01 * settings["seed"]] * 12}
            for n in range(1, settings["epochs"] + 1)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return None

    monkeypatch.setattr(runs, "_train", train)
    return calls


def test_every_recipe_has_the_same_budget_and_seeds(tmp_path, trained) -> None:
    data = write_folder(tmp_path / "data")
    found = compare(data, ["published", "deim"], steps=20, seeds=2, output_dir=tmp_path / "out", jobs=2, **TINY)
    assert (found.steps, found.batch_size) == (21, 4)  # 12 images
    assert sorted((call["recipe"], call["seed"]) for call in trained) == [
        ("deim", 0), ("deim", 1), ("published", 0), ("published", 1)
    ]  # fmt: skip
    assert {(call["epochs"], call["batch_size"], call["evaluate_every"]) for call in trained} == {(7, 4, 1)}
    assert found.ranking() == ["deim", "published"]
    assert [one.seconds for one in found.runs["deim"][1]] == [2.0 * n for n in range(1, 8)]


def test_recipes_with_more_images_per_epoch_have_fewer_epochs(tmp_path, trained, caplog) -> None:
    data, more = write_folder(tmp_path / "data"), tmp_path / "more"
    more.mkdir()
    for i in range(24):  # with as many annotated ones: 48 images per epoch instead of 12
        Image.fromarray(np.full((40, 40, 3), 9 * i, np.uint8)).save(more / f"{i}.png")
    recipes: dict[str, dict] = {
        "more": {"recipe": "deim", "teacher": "rtdetrv2_r18vd", "unlabelled": str(more)},
        "plain": {"recipe": "deim"},
    }
    out = tmp_path / "out"
    found = compare(data, recipes, steps=24, seeds=1, output_dir=out, **TINY)
    assert (found.steps, found.batch_size) == (24, 4)
    lengths = {Path(call["output_dir"]).parent.name: (call["epochs"], call["evaluate_every"]) for call in trained}
    assert lengths == {"more": (2, 1), "plain": (8, 1)}
    compare(data, dict(reversed(recipes.items())), steps=24, seeds=1, output_dir=out, **TINY)
    assert len(trained) == 2 and "steps differ" not in caplog.text
    uneven = compare(data, recipes, steps=17, seeds=1, output_dir=tmp_path / "uneven", **TINY)
    assert uneven.steps == 12 and "their steps differ (more 12, plain 18): use more" in caplog.text
    stopping = {**recipes, "early": {**recipes["more"], "early_stopping": 7}}
    with pytest.raises(ConfigError, match="early sets early_stopping to 7"):
        compare(data, stopping, steps=96, output_dir=tmp_path / "early", **TINY)
    with pytest.raises(ConfigError, match="11 is too short to compare: an epoch of more has 12 steps"):
        compare(data, recipes, steps=11, output_dir=tmp_path / "short", **TINY)


def test_finished_runs_are_not_repeated_and_recipes_and_seeds_can_be_added(tmp_path, trained) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    compare(data, ["published", "deim"], steps=6, seeds=1, output_dir=out, **TINY)
    (out / "deim" / "seed-0" / "metrics.jsonl").unlink()
    trained.clear()
    compare(data, ["published", "deim", "finetune"], steps=6, seeds=2, output_dir=out, **TINY)
    assert {(call["recipe"], call["seed"]) for call in trained} == {
        ("deim", 0), ("deim", 1), ("published", 1), ("finetune", 0), ("finetune", 1)
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"has runs of a comparison with other settings \(settings\)"):
        compare(data, ["published", "deim"], steps=9, output_dir=out, **TINY)
    with pytest.raises(ConfigError, match=r"other settings \(deim\)"):
        compare(data, {"published": {"recipe": "published"}, "deim": {"lr": 1.0}}, steps=6, output_dir=out, **TINY)


def test_own_settings_override_common_ones(tmp_path, trained) -> None:
    data = write_folder(tmp_path / "data")
    recipes = {"a": {"recipe": "deim", "set": {"train.mosaic": 0}}, "b": {"recipe": "deim"}, "c": {"set": {}}}
    compare(data, recipes, steps=3, seeds=1, output_dir=tmp_path / "out", set={"train.mixup": 0.5}, **TINY)
    assert [call["set"] for call in trained] == [{"train.mixup": 0.5, "train.mosaic": 0}, *[{"train.mixup": 0.5}] * 2]


@pytest.mark.parametrize(
    ("recipes", "steps", "words"),
    [
        (["deim"], 9, "expected at least two to compare, got deim"),
        ([], 9, "got none"),
        (["deim", "deim"], 9, "each must have its own name"),
        (["deim", "publishd"], 9, "unknown recipe 'publishd'. Did you mean 'published'"),
        (["deim", "published"], 2, "2 is too short to compare: an epoch of this dataset has 3 steps of 4 images"),
        (["deim", "published"], 0, "steps must be an integer of at least 1"),
        ({"../a": {}, "b": {}}, 9, "cannot be the name of a folder"),
        ({"a": {"epochs": 9}, "b": {}}, 9, "a sets epochs to 9, but a comparison sets it for all runs: remove it"),
        ({"a": {}, "b": {"set": {"seed": "5"}}}, 9, "b sets seed to 5"),
        ({"a": {}, "b": {"evaluate_every": 0}}, 9, "b sets evaluate_every to 0"),
        ({"a": {}, "b": {"early_stopping": 2}}, 9, "b sets early_stopping to 2, which may end its runs early"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_training(tmp_path, trained, recipes, steps, words) -> None:
    data = write_folder(tmp_path / "data")
    with pytest.raises(ConfigError, match=words):
        compare(data, recipes, steps=steps, output_dir=tmp_path / "out", **TINY)
    assert not trained and not (tmp_path / "out").exists()


def test_validation_images_are_needed(tmp_path, trained) -> None:
    data = write_folder(tmp_path / "data")
    with pytest.raises(DatasetError):
        compare(data / "train", ["deim", "published"], steps=6, output_dir=tmp_path / "out", **TINY)
    assert not trained


def test_settings_files_are_recipes(tmp_path, trained) -> None:
    data = write_folder(tmp_path / "data")
    (tmp_path / "mine.yml").write_text("recipe: deim\ntrain: {lr: 1.0e-3}\n")
    recipes = ["published", str(tmp_path / "mine.yml")]
    found = compare(data, recipes, steps=6, seeds=1, output_dir=tmp_path / "out", **TINY)
    assert set(found.runs) == {"published", "mine"}
    (tmp_path / "mine.yml").write_text("recipe: deim\ntrain: {batch_size: 2}\n")
    assert compare(data, recipes, steps=6, seeds=1, output_dir=tmp_path / "o2", **TINY).batch_size == 4  # overridden


@pytest.mark.slow
def test_a_comparison_trains_resumes_and_prints(tmp_path) -> None:
    data, out = write_folder(tmp_path / "data"), tmp_path / "out"
    command = [
        "compare",
        str(data),
        "--recipes",
        "published,deim",
        "--steps",
        "6",
        "--seeds",
        "1",
        "--output",
        str(out),
    ]
    command += ["--model", "test-tiny", "--device", "cpu", "--workers", "0", "--json", str(tmp_path / "found.json")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "6 steps of 4 images, 1 seed" in result.output and "too few to compare" in result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["step"] for one in found["runs"]["deim"][0]] == [3, 6]
    assert config_of(out / "deim" / "seed-0")["recipe"]["warmup_iterations"] == 0
    assert config_of(out / "published" / "seed-0")["recipe"]["warmup_iterations"] == 2000
    assert (out / "comparison.png").stat().st_size > 10_000
    before = (out / "deim" / "seed-0" / "last.pth").stat().st_mtime_ns
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (out / "deim" / "seed-0" / "last.pth").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_that_fails_says_why_and_ends_the_others(tmp_path) -> None:
    data = write_folder(tmp_path / "data")
    recipes = {"good": {"recipe": "deim"}, "bad": {"recipe": "deim", "lr": 1e30}}
    with pytest.raises(TrainingError, match="bad with seed 0 failed"):
        compare(data, recipes, steps=30_000, seeds=1, jobs=2, output_dir=tmp_path / "long", **TINY)  # hours
    with pytest.raises(TrainingError, match=r"bad with seed 0 failed: TrainingError: .* See .*log.txt"):
        compare(data, recipes, steps=6, seeds=1, output_dir=tmp_path / "out", **TINY)


@pytest.mark.slow
def test_runs_end_when_the_comparison_is_killed(tmp_path) -> None:
    data, run = write_folder(tmp_path / "data"), tmp_path / "out" / "deim" / "seed-0"
    command = [sys.executable, "-m", "rtdetr", "compare", str(data), "--recipes", "deim,published", "--steps", "30000"]
    command += ["--output", str(tmp_path / "out"), "--model", "test-tiny", "--device", "cpu", "--workers", "0"]
    comparison = subprocess.Popen(command)
    try:
        wait_for(lambda: any(row["kind"] == "epoch" for row in read_records(run)))
    finally:
        comparison.kill()
        comparison.wait()
    wait_for(lambda: "SIGTERM: stopped after step" in (run / "log.txt").read_text())


def wait_for(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)
