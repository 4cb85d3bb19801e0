"""The training loop: files of a run, exact resuming, unusual batches, and failures."""

import contextlib
import dataclasses
import json
import logging
import math
import shutil
import signal
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rtdetr.api import evaluate, train
from rtdetr.categories import Categories, Category
from rtdetr.data import open_dataset
from rtdetr.errors import ConfigError, DatasetError, InputError, TrainingError, WeightsError
from rtdetr.evaluation import EvaluationReport
from rtdetr.losses import Criterion, build_criterion
from rtdetr.models import build_model
from rtdetr.process_lock import ProcessLock
from rtdetr.reports.progress import Progress
from rtdetr.reports.run_log import RunLog
from rtdetr.training import TrainResult, run_lock, setup
from rtdetr.training import train as loop
from rtdetr.training.checkpoint import newest_undamaged
from rtdetr.training.job import Job
from rtdetr.training.run_lock import one_run_per_process
from rtdetr.weights import load_model, read_checkpoint, save_weights
from tests.coco_files import exchanged, many_images, renamed, write_dataset
from tests.training.small import (
    STEPS,
    TINY,
    accuracies,
    config_of,
    losses,
    measured,
    only_the_loop,
    run_tiny,
    write_folder,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _only_the_loop(request) -> Iterator[None]:
    left_out = request.function is not test_a_run_leaves_everything_in_its_folder
    with only_the_loop() if left_out else contextlib.nullcontext():
        yield


def flat(value: object, name: str = "") -> dict[str, object]:
    """Leaves of nested containers, tensors as a checksum of their bytes."""
    if isinstance(value, dict):
        return {key: leaf for k, v in value.items() for key, leaf in flat(v, f"{name}/{k}").items()}
    if isinstance(value, list):
        return {key: leaf for k, v in enumerate(value) for key, leaf in flat(v, f"{name}/{k}").items()}
    return {name: zlib.crc32(value.contiguous().numpy().tobytes()) if isinstance(value, Tensor) else value}


def training_state(folder: Path) -> dict[str, object]:
    """Everything in last.pth but the date and the settings."""
    content = torch.load(folder / "last.pth", weights_only=True)
    del content["rng"][0]["python"]  # beartype draws from it to choose what it checks
    return flat({key: value for key, value in content.items() if key not in ("date", "rtdetr")})


def stop_after(monkeypatch, iteration: int, name: str = "SIGTERM") -> None:
    """Let a signal come in the step that is the `iteration`th of the run."""
    step = RunLog.step

    def step_and_signal(self: RunLog, *args: object, **kwargs: object) -> None:
        step(self, *args, **kwargs)
        if self._progress.iteration == iteration:
            signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(RunLog, "step", step_and_signal)


class Poisoned(Criterion):
    """Spoils the loss, or only its gradient, of the fifth batch."""

    def __init__(self, kind: str) -> None:
        super().__init__(build_criterion("test-tiny").config)
        self.kind, self.calls = kind, 0

    def forward(self, output, targets, *, num_boxes=None):
        terms = super().forward(output, targets, num_boxes=num_boxes)
        self.calls += 1
        if self.calls == 5:
            zero = output.logits.sum() * 0.0
            terms["loss_vfl"] = terms["loss_vfl"] + (
                zero.sqrt() if self.kind == "gradient" else zero + float(self.kind)
            )
        return terms


def test_a_run_leaves_everything_in_its_folder(data, tmp_path, capsys):
    result = run_tiny(data, tmp_path / "run", seed=3)
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"best.pth", "last.pth", "config.json", "plan.txt", "environment.json", "evaluation.json"}
    assert left >= {"metrics.jsonl", "steps.csv", "tensorboard", "learning_curve.png", "images", "report.html"}
    run = tmp_path / "run"
    assert result == (run, run / "best.pth", result.best_ap, run / "last.pth", True, None, result.plan)
    assert (run / "plan.txt").read_text().startswith(result.plan.partition("\n")[0])
    config = config_of(tmp_path / "run")
    assert (config["seed"], config["model"], config["recipe"]["epochs"]) == (3, "test-tiny", 2)
    assert [iteration for iteration, _ in losses(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert max(ap[0] for ap in accuracies(tmp_path / "run")) == result.best_ap
    model, categories = load_model(result.best_weights)
    assert (model.config.name, categories.names, categories.ids) == ("test-tiny", ["cat", "dog", "bird"], [3, 7, 90])
    shown = capsys.readouterr().err
    assert "data           12 images (3 without objects); 3 classes; validation: 4 images (0 without objects)" in shown
    assert "epoch 2/2  step 3/3  left 0:00:0" in shown
    assert "epoch 2/2  loss" in shown


def test_the_learning_rate_warms_up_and_the_loss_decreases(data, tmp_path):
    run_tiny(data, tmp_path, epochs=5, evaluate_every=0, set={"train.warmup_iterations": 4, "train.lr": 2e-3}, seed=1)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["learning_rates"] for row in rows if row["kind"] == "step"]
    assert [pair[0] for pair in rates[:5]] == pytest.approx([0.0005, 0.001, 0.0015, 0.002, 0.002])
    epochs = [row["loss"] for row in rows if row["kind"] == "epoch"]
    assert epochs[-1] < 0.9 * epochs[0]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> TrainResult:
    """A run of two epochs that nothing interrupts."""
    with only_the_loop():  # a fixture of the module comes before those of each test
        return run_tiny(data, tmp_path_factory.mktemp("whole"), log_every=2)


@pytest.mark.parametrize(
    "stop", [STEPS + 1, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (STEPS, 2 * STEPS))]
)
def test_an_interrupted_run_equals_one_that_was_not(data, whole, tmp_path, monkeypatch, caplog, stop):
    with monkeypatch.context() as patch:
        stop_after(patch, stop)
        part = run_tiny(data, tmp_path / "part", log_every=2)
    assert (part.finished, part.signal) == (False, "SIGTERM")
    assert training_state(tmp_path / "part")["/progress/iteration"] == stop
    torch.rand(5)
    resumed = run_tiny(None, resume=tmp_path / "part")
    assert (resumed.finished, resumed.best_ap) == (True, whole.best_ap)
    assert measured(tmp_path / "part") == measured(whole.output_dir)
    assert training_state(tmp_path / "part") == training_state(whole.output_dir)
    assert training_state(tmp_path / "part")["/last_epoch"] == 1
    assert "resume:" not in caplog.text


def test_a_run_resumes_after_classes_were_reordered(whole, tmp_path, monkeypatch, caplog):
    data, part = write_folder(tmp_path / "data"), tmp_path / "part"
    with monkeypatch.context() as patch:
        stop_after(patch, STEPS + 1)
        run_tiny(data, part, log_every=2)
    files = [data / split / "_annotations.coco.json" for split in ("train", "valid")]
    for file in files:
        file.write_text(json.dumps(exchanged(json.loads(file.read_text()))))
    run_tiny(None, resume=part)
    assert [text for text in caplog.messages if text.startswith("resume:")] == [
        "resume: the dataset lists 2 of 3 classes in a different order than the run: 'cat', 'dog'; classes are matched "
        "by name and keep the labels of the run",
        "resume: updated the class names and category ids in best.pth and last.pth to those of the data; weights are "
        "unchanged",
    ]
    assert measured(part) == measured(whole.output_dir)
    assert training_state(part) == training_state(whole.output_dir)
    assert load_model(part / "best.pth")[1].names == load_model(whole.output_dir / "best.pth")[1].names
    content = json.loads(files[0].read_text())
    content["categories"].append({"id": 91, "name": "fox"})
    files[0].write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="only in the data: 'fox'"):
        run_tiny(None, resume=part, epochs=3)


@pytest.mark.slow
def test_a_run_resumes_with_a_renamed_class_and_evaluates_its_best_weights(tmp_path, caplog):
    data = write_folder(tmp_path / "data")
    best = run_tiny(data, tmp_path / "run", epochs=1).best_weights
    for part in ("train", "valid"):
        file = data / part / "_annotations.coco.json"
        file.write_text(json.dumps(renamed(exchanged(json.loads(file.read_text())), bird="fox")))
    with pytest.raises(DatasetError, match=r"only the model has 'bird'; only the file has 'fox'"):
        evaluate(best, data, device="cpu")
    before = read_checkpoint(best)
    run_tiny(None, resume=tmp_path / "run", dry_run=True)
    assert read_checkpoint(best).categories == before.categories
    with caplog.at_level(logging.WARNING):
        run_tiny(None, resume=tmp_path / "run", epochs=1)
    assert "'bird' is now 'fox'" in caplog.text and "'cat', 'dog'; classes are matched by name" in caplog.text
    assert (
        "the class names and category ids in best.pth and last.pth" in caplog.text and "other boxes" not in caplog.text
    )
    after = read_checkpoint(best)
    assert after.categories.to_json() == [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "fox"}]
    assert flat(after.state) == flat(before.state)
    assert evaluate(best, data, device="cpu").metrics.ap >= 0
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run_tiny(None, resume=tmp_path / "run", dry_run=True)
    (said,) = [text for text in caplog.messages if text.startswith("resume:")]
    assert "in a different order" in said


def test_a_run_that_died_in_an_evaluation_is_evaluated_when_resumed(data, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Job, "evaluate", lambda job: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_tiny(data, tmp_path, log_every=2)
    assert training_state(tmp_path)["/progress/batch"] == STEPS
    assert run_tiny(None, resume=tmp_path).best_ap == whole.best_ap
    assert measured(tmp_path) == measured(whole.output_dir)
    assert training_state(tmp_path) == training_state(whole.output_dir)


def with_ap(report: EvaluationReport, ap: float) -> EvaluationReport:
    """The same evaluation with another AP."""
    return dataclasses.replace(report, metrics=report.metrics._replace(ap=ap))


def test_the_best_is_kept_when_a_resumed_run_is_worse(data, tmp_path, monkeypatch):
    evaluate = Job.evaluate

    def stated(ap: float):
        monkeypatch.setattr(Job, "evaluate", lambda job: with_ap(evaluate(job), ap))

    stated(0.7)
    run_tiny(data, tmp_path, epochs=1)
    before = (tmp_path / "best.pth").read_bytes()
    stated(0.6)
    result = run_tiny(None, resume=tmp_path, epochs=2)
    assert (result.best_ap, result.finished) == (0.7, True)
    assert (tmp_path / "best.pth").read_bytes() == before
    assert config_of(tmp_path)["recipe"]["epochs"] == 2
    stated(0.8)
    assert run_tiny(None, resume=tmp_path / "last.pth", epochs=3).best_ap == 0.8
    assert (tmp_path / "best.pth").read_bytes() != before


def test_resuming_a_finished_run_changes_nothing(data, tmp_path, capsys):
    first = run_tiny(data, tmp_path)
    assert "nothing left to do" not in capsys.readouterr().err
    before = training_state(tmp_path), losses(tmp_path), accuracies(tmp_path)
    assert run_tiny(None, resume=tmp_path) == first
    assert "nothing left to do: the run has finished its 2 epochs. To train longer: --epo" in capsys.readouterr().err
    config = (tmp_path / "config.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"the run has finished 2 epochs and cannot be shortened to 1: increase --epochs"
    ):
        run_tiny(None, resume=tmp_path, epochs=1)
    assert (tmp_path / "config.json").read_bytes() == config
    assert (training_state(tmp_path), losses(tmp_path), accuracies(tmp_path)) == before


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "loss_vfl is nan"),
        pytest.param("inf", "loss_vfl is inf", marks=pytest.mark.slow),
        ("gradient", "gradient"),
    ],
)
def test_a_non_finite_loss_stops_the_run_before_weights_change(data, tmp_path, monkeypatch, kind, words):
    with monkeypatch.context() as patch:
        patch.setattr(setup, "build_criterion", lambda *_, **__: Poisoned(kind))
        with pytest.raises(TrainingError, match=f"not finite.*{words}|{words}.*not finite") as caught:
            run_tiny(data, tmp_path, rehearsal=False)
    message = str(caught.value)
    assert f"{tmp_path / 'last.pth'} still contains an earlier step. Check" in message
    assert "step 5, batch 2 of epoch 2, image ids " in message
    named = message.partition("image ids ")[2].partition(";")[0].split(", ")
    assert len(named) == 4
    assert all(1 <= int(image_id) <= 12 for image_id in named)
    assert training_state(tmp_path)["/progress/iteration"] == STEPS
    model, _ = load_model(tmp_path / "last.pth")
    assert all(value.isfinite().all() for value in model.parameters())
    assert run_tiny(None, resume=tmp_path).finished


@pytest.fixture(scope="module")
def short(data, tmp_path_factory) -> Path:
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("short")
    with only_the_loop():
        run_tiny(data, folder, epochs=1, evaluate_every=0)
    return folder


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_lower_precision_keeps_weights_in_float32(data, short, tmp_path, precision):
    run_tiny(data, tmp_path, epochs=1, precision=precision, evaluate_every=0)
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    assert {value.dtype for value in content["model"].values() if value.is_floating_point()} == {torch.float32}
    assert ("scale" in content["scaler"]) == (precision == "float16")
    low, full = losses(tmp_path)[0][1], losses(short)[0][1]
    assert low != full
    assert low == pytest.approx(full, rel=0.05)


def test_a_dataset_without_any_object(tmp_path, caplog):
    data = write_folder(tmp_path / "data", empty=True)
    result = run_tiny(data, tmp_path / "run", early_stopping=1)
    best = tmp_path / "run" / "best.pth"
    assert (result.finished, result.best_ap, result.best_weights) == (True, None, best)
    assert "has no objects to train on" in caplog.text
    assert (
        "has no objects, so AP cannot be measured; best.pth will contain the weights of the last evaluation"
        in caplog.text
    )
    weights = [torch.load(file, weights_only=True)["ema"] for file in (best, result.last_weights)]
    assert flat(weights[0]) == flat(weights[1])
    model, _ = load_model(result.last_weights)
    start = build_model(model.config)
    assert all(value.isfinite().all() for value in model.parameters())
    assert not torch.equal(model.decoder.dec_score_head[0].bias, start.decoder.dec_score_head[0].bias)


def test_memory_layout_and_workers_change_only_rounding(data, short, tmp_path):
    run_tiny(data, tmp_path, epochs=1, evaluate_every=0, channels_last=False, workers=1)
    first, second = ([loss for _, loss in losses(folder)] for folder in (tmp_path, short))
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    assert first == pytest.approx(second, rel=1e-2)


def test_starting_from_weights_of_other_classes(data, tmp_path, caplog):
    source = build_model("test-tiny", num_classes=2)
    categories = Categories([Category(0, "bird"), Category(1, "boat")])
    save_weights(source, tmp_path / "source.pth", categories=categories)
    with caplog.at_level(logging.INFO, logger="rtdetr"):
        run_tiny(
            data, tmp_path / "run", epochs=1, weights=tmp_path / "source.pth", set={"train.lr": 1e-12}, evaluate_every=0
        )
    assert "1 class transferred, 2 initialized randomly" in caplog.text
    model, _ = load_model(tmp_path / "run/last.pth")
    torch.testing.assert_close(model.encoder.input_proj[0].conv.weight, source.encoder.input_proj[0].conv.weight)
    torch.testing.assert_close(model.decoder.enc_score_head.weight[2], source.decoder.enc_score_head.weight[0])


def test_weights_without_class_names_are_matched_by_position_with_a_warning(data, tmp_path, caplog):
    source = build_model("test-tiny", num_classes=3)
    save_weights(source, tmp_path / "source.pth")
    given = {"weights": tmp_path / "source.pth", "set": {"train.lr": 1e-12}, "evaluate_every": 0}
    with caplog.at_level(logging.INFO, logger="rtdetr"):
        run_tiny(data, tmp_path / "run", epochs=1, **given)
    assert "does not name its 3 classes" in caplog.text and "3 classes transferred" in caplog.text


def test_a_font_that_cannot_be_read_is_refused_at_once(data, tmp_path):
    (tmp_path / "font.ttf").write_text("no font")
    with pytest.raises(InputError, match=r"cannot read the font .*font\.ttf"):
        run_tiny(data, tmp_path / "run", font=tmp_path / "font.ttf")
    assert not (tmp_path / "run").exists()


def test_a_warm_up_longer_than_the_run_gives_a_warning(data, tmp_path, caplog):
    run_tiny(data, tmp_path, epochs=1, evaluate_every=0, set={"train.warmup_iterations": 2000})
    assert "warm-up takes 3 of the run's 3 steps" in caplog.text
    assert "--set train.warmup_iterations=1" in caplog.text


def test_invalid_settings_are_refused_before_anything_is_written(data, tmp_path):
    annotations = data / "train" / "_annotations.coco.json"
    (tmp_path / "only").mkdir()
    (tmp_path / "only/train").symlink_to(data / "train")
    cases = [
        (ConfigError, "no validation split.*evaluate_every", {"data": annotations}),
        (
            DatasetError,
            "^Give validation data with --val-data .* has no annotations for 'val'",
            {"data": tmp_path / "only"},
        ),
        (ConfigError, "no published backbone weights", {"data": data, "backbone_weights": "auto"}),
        (WeightsError, "has no published weights", {"data": data, "weights": "test-tiny"}),
        (DatasetError, "no dataset", {"data": tmp_path / "nowhere"}),
        (ConfigError, "unknown device", {"data": data, "device": "gpu"}),
    ]
    for error, message, settings in cases:
        with pytest.raises(error, match=message):
            run_tiny(settings.pop("data"), tmp_path / "run", **settings)
        assert not (tmp_path / "run").exists()


def test_a_dry_run_fetches_no_weights(data, tmp_path, monkeypatch):
    monkeypatch.setenv("RTDETR_OFFLINE", "1")
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    settings = {"weights": "https://example.org/own.pth", "epochs": 1}
    assert run_tiny(data, tmp_path / "plan", dry_run=True, **settings).best_weights is None
    assert "from the weights https://example.org/own.pth" in (tmp_path / "plan/plan.txt").read_text()
    with pytest.raises(WeightsError, match=r"own\.pth is not in the cache"):
        run_tiny(data, tmp_path / "run", **settings)
    with pytest.raises(WeightsError, match="no published weights"):
        run_tiny(data, tmp_path / "run", dry_run=True, weights="test-tiny")


def test_another_run_is_never_overwritten(data, tmp_path):
    (tmp_path / "last.pth").write_text("precious")
    with pytest.raises(ConfigError, match="already contains a run"):
        run_tiny(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


@pytest.mark.parametrize("second", [{"resume": "auto"}, {}, pytest.param({"dry_run": True}, marks=pytest.mark.slow)])
def test_only_one_process_writes_to_a_folder(data, tmp_path, monkeypatch, second):
    monkeypatch.setattr(run_lock, "PATIENCE", 0.1)
    step, refusals = RunLog.step, []

    def step_and_begin_another(self: RunLog, *args: object, **kwargs: object) -> None:
        step(self, *args, **kwargs)
        if self._progress.iteration == 2:
            before = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
            patch.setattr(run_lock, "_running", ProcessLock())  # as in another process
            with pytest.raises(ConfigError, match="another process is writing a run to") as caught:
                run_tiny(data, tmp_path, **{**TINY, "epochs": 1, "seed": 5}, **second)
            refusals.append(str(caught.value))
            assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "step", step_and_begin_another)
        run_tiny(data, tmp_path, epochs=1, evaluate_every=0)
    assert len(refusals) == 1 and str(tmp_path) in refusals[0]
    assert run_tiny(None, resume=tmp_path, epochs=2, evaluate_every=0).finished


def test_leftovers_of_a_killed_process_are_cleared(data, tmp_path):
    run_tiny(data, tmp_path, epochs=1, evaluate_every=0)
    leftover = tmp_path / ".last.pth.abc123.tmp"
    leftover.write_text("half")
    run_tiny(None, resume=tmp_path, epochs=1)
    assert not leftover.exists()


def test_a_bad_batch_is_saved_and_can_be_skipped(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(setup, "build_criterion", lambda *_, **__: Poisoned("nan"))
    skip = {"warmup_iterations": 2, "lr": 1e-3, "non_finite": "skip"}
    result = run_tiny(data, tmp_path, rehearsal=False, recipe=skip, evaluate_every=0)
    assert result.finished
    assert "The step is skipped" in caplog.text
    (saved,) = tmp_path.glob("bad_batch_*.pt")
    content = torch.load(saved, weights_only=True)
    assert content["images"].shape[0] == len(content["targets"]) == len(content["image_ids"]) == 4
    assert len(losses(tmp_path)) == 2 * STEPS - 1
    state = training_state(tmp_path)
    assert (state["/progress/iteration"], state["/ema/updates"]) == (2 * STEPS, 2 * STEPS - 1)


def test_the_error_mentions_a_checkpoint_only_if_there_is_one(data, tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "build_criterion", lambda *_, **__: Poisoned("nan"))
    with pytest.raises(
        TrainingError, match=r"step 5, batch 5 of epoch 1.*\. No checkpoint had been written yet\. Check"
    ):
        run_tiny(data, tmp_path, rehearsal=False, batch_size=1)


def test_a_loss_that_is_never_finite_ends_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Poisoned, "forward", lambda self, *_, **__: {"loss_vfl": torch.tensor(math.nan, requires_grad=True)}
    )
    monkeypatch.setattr(setup, "build_criterion", lambda *_, **__: Poisoned("nan"))
    skip = {"warmup_iterations": 2, "non_finite": "skip"}
    with pytest.raises(TrainingError, match="11 steps in a row"):
        run_tiny(data, tmp_path, rehearsal=False, recipe=skip, epochs=9, evaluate_every=0)


def test_the_rehearsal_changes_nothing(data, short, tmp_path):
    run_tiny(data, tmp_path, epochs=1, evaluate_every=0, rehearsal=False)
    assert losses(tmp_path) == losses(short)
    assert training_state(tmp_path) == training_state(short)


def test_out_of_memory_is_reported_before_the_first_step(data, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    drawn = []
    monkeypatch.setattr(loop.EvaluationPages, "write", lambda pages: drawn.append(pages))
    monkeypatch.setattr(Criterion, "forward", fail)
    with pytest.raises(TrainingError, match=r"out of memory.*4 images of 64x64.*accumulate=2.*--batch-size 2"):
        run_tiny(data, tmp_path)
    assert not (tmp_path / "last.pth").exists()
    assert len(drawn) == 1  # an error ends with a report too


def test_a_full_disk_does_not_end_the_run(data, tmp_path, monkeypatch, capsys):
    save, calls = torch.save, []

    def save_or_fail(content: object, file: object) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", save_or_fail)
    result = run_tiny(data, tmp_path, evaluate_every=0)
    assert result.finished
    assert training_state(tmp_path)["/progress/iteration"] == 2 * STEPS
    assert "the disk is full" in capsys.readouterr().err


def test_early_stopping(data, tmp_path, monkeypatch):
    evaluate = Job.evaluate
    aps = iter([0.3, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr(Job, "evaluate", lambda job: with_ap(evaluate(job), next(aps)))
    result = run_tiny(data, tmp_path, epochs=9, early_stopping=2)
    assert (result.finished, result.best_ap) == (True, 0.5)
    assert len(accuracies(tmp_path)) == 4
    assert run_tiny(None, resume=tmp_path).finished
    assert len(accuracies(tmp_path)) == 4


def test_another_metric_can_select_the_best_weights(data, tmp_path):
    assert run_tiny(data, tmp_path, best_metric="ap50").finished
    with pytest.raises(ConfigError, match=r"'ap5O'.*ap, ap50, ap75"):
        run_tiny(data, tmp_path / "other", best_metric="ap5O")


def test_older_checkpoints_are_kept_and_found_when_the_newest_is_damaged(data, tmp_path, caplog):
    run_tiny(data, tmp_path, epochs=3, keep_last=3, evaluate_every=0)
    assert sorted(file.name for file in tmp_path.glob("last*")) == ["last-1.pth", "last-2.pth", "last.pth"]
    expected = losses(tmp_path)
    epochs = [torch.load(file, weights_only=True)["last_epoch"] for file in sorted(tmp_path.glob("last*"))]
    assert epochs == [1, 0, 2]
    content = bytearray((tmp_path / "last.pth").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 256] = bytes(byte ^ 1 for byte in content[middle : middle + 256])  # one may be padding
    (tmp_path / "last.pth").write_bytes(content)
    assert run_tiny(None, resume="auto", output_dir=tmp_path).finished
    assert "last.pth is damaged" in caplog.text
    assert losses(tmp_path) == expected


def test_checkpoints_that_do_not_fit_are_explained_with_the_options(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    run_tiny(Path(data.name), tmp_path / "run", epochs=1, evaluate_every=0)
    with pytest.raises(
        WeightsError,
        match=r"the network differs .*: the size was \[64, 64\] and is \[96, 96\] \(--size\)\. Resume with",
    ):
        run_tiny(None, resume=tmp_path / "run", epochs=2, size_hw=(96, 96))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"the run's data is '{data.name}', which does not exist in .* with DATA"):
        run_tiny(None, resume=tmp_path / "run", epochs=2)
    assert run_tiny(data, resume=tmp_path / "run", epochs=2).finished


def test_resume_auto_starts_a_new_run_if_there_is_none(data, tmp_path):
    begun = train(data, resume="auto", output_dir=tmp_path, **TINY, epochs=1, evaluate_every=0)
    assert begun.finished
    gone_on = train(data, resume="auto", output_dir=tmp_path, **TINY, epochs=2, evaluate_every=0)
    assert gone_on.finished
    assert len(losses(tmp_path)) == 2 * STEPS
    with pytest.raises(ConfigError, match="output_dir"):
        train(data, resume="auto")


def test_deterministic_runs_are_equal_bit_for_bit(data, tmp_path):
    for name in "ab":
        run_tiny(data, tmp_path / name, epochs=1, evaluate_every=0, deterministic=True)
        assert not torch.are_deterministic_algorithms_enabled()  # that holds for the run only
    assert training_state(tmp_path / "a") == training_state(tmp_path / "b")


def test_datasets_that_are_open_already(data, short, tmp_path):
    parts = {split: open_dataset(data, split=split) for split in ("train", "val")}
    result = run_tiny(parts["train"], tmp_path, epochs=1, val_data=parts["val"])
    assert result.best_ap is not None
    assert losses(tmp_path) == losses(short)
    with pytest.raises(ConfigError, match="val_data"):
        run_tiny(parts["train"], tmp_path / "other")


def test_images_of_one_channel(data, tmp_path):
    result = run_tiny(data, tmp_path, epochs=1, in_channels=1)
    model, _ = load_model(result.best_weights)
    assert model.config.in_channels == 1


def test_a_checkpoint_before_the_last_epoch_is_kept(data, tmp_path):
    run_tiny(data, tmp_path, epochs=3, keep_last=2)  # with evaluations, around which it is saved twice
    steps = [
        torch.load(tmp_path / name, weights_only=True)["progress"]["iteration"] for name in ("last-1.pth", "last.pth")
    ]
    assert steps == [2 * STEPS, 3 * STEPS]


def test_other_files_are_not_taken_for_checkpoints(data, short, tmp_path):
    shutil.copy(short / "last.pth", tmp_path / "last_backup.pth")
    assert newest_undamaged(tmp_path) is None
    shutil.copy(short / "last.pth", tmp_path / "last-3.pth")
    assert newest_undamaged(tmp_path) == tmp_path / "last-3.pth"


def test_the_plan_says_how_long_it_takes(short):
    assert "steps of" in (short / "plan.txt").read_text()
    assert "unknown" not in (short / "plan.txt").read_text()


def test_float16_that_never_recovers_ends_the_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr("rtdetr.training.step.MAX_OVERFLOWS", 3)
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *args: clip(*args) * math.inf)
    with pytest.raises(TrainingError, match=r"not finite.*float16"):
        run_tiny(data, tmp_path, precision="float16", epochs=3, evaluate_every=0)


def test_another_metric_when_resuming_restarts_the_comparison():
    progress = Progress(batches_per_epoch=1)
    assert progress.note(0.9, ap=0.5, metric="ap50")
    assert progress.note(0.4, ap=0.4, metric="ap")
    assert not progress.note(0.3, ap=0.3, metric="ap")


def test_a_second_training_in_the_process_is_refused(tmp_path: Path) -> None:
    def refused() -> bool:
        with pytest.raises(ConfigError, match="another training run is in progress in this process"):
            run_tiny(folder, tmp_path / "second")
        return True

    folder = write_folder(tmp_path / "data")
    with one_run_per_process(), ThreadPoolExecutor(1) as pool:
        assert refused() and pool.submit(refused).result()
    assert not (tmp_path / "second").exists()
    with only_the_loop():
        assert run_tiny(folder, tmp_path / "second", epochs=1).finished


def test_a_dry_run_beside_a_run_shows_the_plan_and_writes_nothing(data, tmp_path, caplog):
    with only_the_loop():
        run_tiny(data, tmp_path / "run", epochs=1)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    result = run_tiny(data, tmp_path / "run", epochs=7, dry_run=True)
    assert "already contains a run" in caplog.text and "Nothing is written there" in caplog.text
    assert "7 epochs" in result.plan and not result.finished
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


def test_a_class_without_objects_is_named_once_with_the_remedy(tmp_path, caplog):
    content = many_images(8)
    content["categories"].insert(
        0, {"id": 0, "name": "pets", "supercategory": "none"}
    )  # a group, as Roboflow writes it
    _, annotations = write_dataset(tmp_path, content)
    images = {"images": tmp_path / "images", "evaluate_every": 0, "output_dir": tmp_path / "run", "dry_run": True}
    with caplog.at_level("INFO"):
        train(annotations, **TINY, epochs=1, **images)
    (said,) = (record.getMessage() for record in caplog.records if "no objects" in record.getMessage())
    assert said.startswith("1 of 4 classes has no objects in the training data: 'pets'. ")
    assert said.endswith(f"to drop it, delete it from 'categories' in {annotations}")
