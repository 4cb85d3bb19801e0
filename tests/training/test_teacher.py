"""Training with a teacher: exact resuming, classes by name, teachers that cannot be used."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr.api import train
from rtdetr.categories import Categories, Category
from rtdetr.config import Recipe, TrainConfig
from rtdetr.data.annotations import Annotations
from rtdetr.data.sampling import epoch_factors
from rtdetr.data.unlabelled import open_unlabelled
from rtdetr.errors import ConfigError, DatasetError, WeightsError
from rtdetr.models import build_model
from rtdetr.models.decoder import RTDETRDecoder
from rtdetr.reports.metrics import read_records
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.training import pseudo_labels
from rtdetr.training.distributed import Processes
from rtdetr.training.pseudo_labels import label
from rtdetr.training.teacher import Teacher
from rtdetr.weights import load_model, save_weights
from tests.training.small import TINY, losses, only_the_loop, run_tiny, write_folder
from tests.training.test_train import stop_after, training_state


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _only_the_loop() -> Iterator[None]:
    with only_the_loop():
        yield


def teacher_of(path: Path, *names: str, model: str = "test-tiny", seed: int = 0, **changes: object) -> Path:
    """Random weights of a detector of these classes."""
    torch.manual_seed(seed)
    network = build_model(model, num_classes=len(names), **changes)
    return save_weights(network, path, categories=Categories(Category(i, name) for i, name in enumerate(names)))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return teacher_of(tmp_path_factory.mktemp("teacher") / "t.pth", "dog", "cat", "elephant", model="demo")


def test_an_interrupted_run_with_a_teacher_equals_one_that_was_not(data, teacher, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    run_tiny(data, tmp_path / "whole", teacher=teacher)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert not run_tiny(data, tmp_path / "part", teacher=teacher).finished
    assert run_tiny(None, resume=tmp_path / "part").finished
    assert training_state(tmp_path / "part") == training_state(tmp_path / "whole")
    assert losses(tmp_path / "part") == losses(tmp_path / "whole")
    terms = next(row for row in read_records(tmp_path / "whole") if row["kind"] == "step")
    assert any("guided" in name for name in terms["terms"])
    assert "does not know" in caplog.text


def test_a_run_without_guided_terms_decodes_none_of_the_queries_of_its_teacher(data, teacher, tmp_path, monkeypatch):
    seen = []
    decode = RTDETRDecoder.forward

    def spy(self, maps, targets=None, trace=None, guide=None):
        seen.append(guide)
        return decode(self, maps, targets, trace, guide)

    monkeypatch.setattr(RTDETRDecoder, "forward", spy)
    run_tiny(data, tmp_path / "run", teacher=teacher, epochs=1, set={"train.distillation.guided_weight": 0})
    assert {guide.tokens.shape[1] for guide in seen if guide is not None} == {0}


def test_the_plan_describes_the_teacher(data, teacher, tmp_path):
    plan = run_tiny(data, tmp_path, teacher=teacher, dry_run=True).plan
    (line,) = [line for line in plan.splitlines() if line.startswith("teacher")]
    assert str(teacher) in line and "knows 2 of 3 classes" in line


@pytest.mark.slow
def test_a_changed_teacher_is_reported_on_resuming(data, tmp_path, monkeypatch, caplog):
    file = teacher_of(tmp_path / "t.pth", "cat", "dog")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        run_tiny(data, tmp_path / "run", teacher=file)
    teacher_of(file, "cat", "dog", seed=1)
    run_tiny(None, resume=tmp_path / "run")
    assert "resume: the weights of the teacher have changed" in caplog.text


@pytest.mark.slow
def test_a_resumed_run_can_drop_its_teacher(data, teacher, tmp_path):
    run_tiny(data, tmp_path, teacher=teacher, epochs=1)
    run_tiny(None, resume=tmp_path, teacher="none", epochs=2)
    first, *_, last = [row for row in read_records(tmp_path) if row["kind"] == "step"]
    assert "guided" in str(first) and "guided" not in str(last)


def test_teachers_that_cannot_be_used(data, tmp_path):
    def refused(error: type[Exception], file: object, *words: str, **settings: object) -> None:
        with pytest.raises(error) as raised:
            train(data, **{**TINY, "output_dir": tmp_path / "run", "teacher": file, **settings})
        assert all(word in str(raised.value) for word in words), raised.value
        assert not (tmp_path / "run").exists()

    refused(
        ConfigError, teacher_of(tmp_path / "zebra.pth", "zebra"), "none of the classes of the data", "'zebra'", "'cat'"
    )
    refused(ConfigError, tmp_path / "m.onnx", "exported model (onnx)", ".pth")
    refused(ConfigError, teacher_of(tmp_path / "gray.pth", "cat", in_channels=1), "1 channel")
    four = build_model("test-tiny").config.replace(decoder={"num_points": (2, 2, 2, 2)}, num_classes=1)
    file = save_weights(build_model(four), tmp_path / "four.pth", categories=Categories([Category(0, "cat")]))
    refused(ConfigError, file, "4 feature levels", "the model has 3")
    refused(WeightsError, tmp_path / "missing.pth", "missing.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    refused(WeightsError, tmp_path / "broken.pth", "broken.pth")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Path:
    """Seven images in a folder and its subfolder."""
    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "more").mkdir()
    for i in range(7):
        Image.effect_noise((60 + i, 48), 90).convert("RGB").save(folder / ("more" if i % 2 else ".") / f"{i}.jpg")
    return folder


LABELLING: dict[str, Any] = {"set": {"train.distillation.pseudo_score": 0.0, "train.lr": 1e-3}, "evaluate_every": 0}


@pytest.mark.slow
def test_unlabelled_images_are_labelled_once_and_a_resumed_run_has_the_same(
    data, teacher, unlabelled, tmp_path, monkeypatch, caplog
):
    run_tiny(data, tmp_path / "whole", teacher=teacher, unlabelled=unlabelled, **LABELLING)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        run_tiny(data, tmp_path / "part", teacher=teacher, unlabelled=unlabelled, **LABELLING)
    stored = json.loads((tmp_path / "part/pseudo_labels.json").read_text())
    names = {f"{'more/' if i % 2 else ''}{i}.jpg" for i in range(7)}
    assert {row["image"] for row in stored["rows"]} == names == {name for name, _, _ in stored["images"]}
    assert {row["label"] for row in stored["rows"]} <= {0, 1}  # elephant is not a class of the data
    assert "count as background" in caplog.text  # the teacher does not know one class
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "_labels_of", None)  # nothing is detected again
        assert run_tiny(None, resume=tmp_path / "part").finished
    assert training_state(tmp_path / "part") == training_state(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 2 * ((12 + 7) // 4)  # each of 12 labelled images, and each other once


def test_pseudo_labels_are_the_detections_above_the_thresholds(teacher, unlabelled, tmp_path):
    network, categories = load_model(teacher)
    detector = TorchDetector(network, categories, device="cpu")
    found = {path.name: detector(path, threshold=0.0) for path in unlabelled.rglob("*.jpg")}
    scores = np.sort(np.concatenate([one.scores[one.labels < 2] for one in found.values()]))
    limit = float(scores[len(scores) // 2])
    classes = Categories([Category(0, "dog"), Category(1, "cat"), Category(2, "horse")])
    images = open_unlabelled(unlabelled, classes, train=None)
    labels = label(
        images,
        Teacher(network, {0: 0, 1: 1}, name="t", categories=categories, thresholds=(limit, limit, 0.0)),
        TrainConfig(data="", model="", output_dir=str(tmp_path), recipe=Recipe()),
        make_detector=lambda _: detector,
        is_resumed=False,
        dry_run=False,
        processes=Processes(),
    )
    assert labels is not None and 0 < len(labels.rows) < len(scores)
    pseudo_labels.save(tmp_path, labels)
    assert pseudo_labels.load(tmp_path) == labels
    for row in labels.rows:
        one = found[Path(row.image).name].clipped()
        box = np.array([*row.bbox[:2], row.bbox[0] + row.bbox[2], row.bbox[1] + row.bbox[3]])
        nearest = np.abs(one.boxes_xyxy - box).max(1) + (one.labels != row.label)
        assert nearest.min() < 0.02 and row.score >= round(limit, 4)


def test_labelled_images_are_at_least_half_of_an_epoch():
    columns = open_dataset_of(4)
    assert epoch_factors(columns, balance=False) is None
    np.testing.assert_array_equal(epoch_factors(columns, balance=False, num_unlabelled=2), [1] * 6)
    np.testing.assert_array_equal(epoch_factors(columns, balance=False, num_unlabelled=10), [2.5] * 4 + [1] * 10)


def open_dataset_of(count: int) -> Annotations:
    """Columns of images without objects."""
    return Annotations(
        categories=Categories([Category(0, "cat")]),
        image_ids=np.arange(count),
        file_names=np.array([f"{i}.jpg" for i in range(count)]),
        sizes_wh=np.full((count, 2), 32),
        starts=np.zeros(count + 1, np.int64),
        boxes_xywh=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0),
        iscrowd=np.zeros(0, bool),
    )


def test_folders_of_unlabelled_images_that_cannot_be_used(data, teacher, unlabelled, tmp_path, caplog):
    def refused(error: type[Exception], *words: str, **settings: object) -> None:
        with pytest.raises(error) as raised:
            train(data, **{**TINY, "output_dir": tmp_path / "run", **settings})
        assert all(word in str(raised.value) for word in words), raised.value
        assert not (tmp_path / "run").exists()

    (tmp_path / "empty").mkdir()
    refused(ConfigError, "need a teacher", unlabelled=unlabelled)
    refused(DatasetError, "no images", teacher=teacher, unlabelled=tmp_path / "empty")
    refused(DatasetError, "not a folder", teacher=teacher, unlabelled=tmp_path / "none")
    refused(DatasetError, "4 of 4 validation images", "meaningless", teacher=teacher, unlabelled=data / "valid")
    refused(DatasetError, "in the training data already", teacher=teacher, unlabelled=data / "train")
    shutil.copytree(unlabelled, tmp_path / "some")
    (tmp_path / "some/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    refused(DatasetError, "broken.jpg", teacher=teacher, unlabelled=tmp_path / "some")
    plan = run_tiny(
        data, tmp_path / "skipped", teacher=teacher, unlabelled=tmp_path / "some", bad_images="skip", dry_run=True
    ).plan
    (line,) = [line for line in plan.splitlines() if line.startswith("unlabelled")]
    assert "7 images" in line and "labels before the first step" in line and "broken.jpg" in caplog.text


@pytest.mark.slow
def test_a_resumed_run_labels_other_images_again_and_needs_no_teacher_for_the_same(
    data, teacher, unlabelled, tmp_path, monkeypatch, caplog
):
    folder, run = tmp_path / "images", tmp_path / "run"
    shutil.copytree(unlabelled, folder)
    run_tiny(data, run, teacher=teacher, unlabelled=folder, epochs=1, **LABELLING)
    before = json.loads((run / "pseudo_labels.json").read_text())
    assert run_tiny(None, resume=run, teacher="none", epochs=2).finished
    assert json.loads((run / "pseudo_labels.json").read_text()) == before
    (folder / "0.jpg").unlink()
    with pytest.raises(ConfigError, match="no teacher to label them"):
        run_tiny(None, resume=run, epochs=3)
    caplog.set_level("INFO")
    assert run_tiny(None, resume=run, teacher=teacher, epochs=3).finished
    assert "have changed" in caplog.text
    assert len(json.loads((run / "pseudo_labels.json").read_text())["images"]) == 6
    monkeypatch.chdir(tmp_path)
    shutil.move(folder, tmp_path / "moved")
    with pytest.raises((ConfigError, DatasetError), match="unlabelled"):
        run_tiny(None, resume=run, epochs=4)


def test_an_unreadable_unlabelled_image_is_skipped_like_a_training_image(data, teacher, unlabelled, tmp_path, caplog):
    shutil.copytree(unlabelled, tmp_path / "images")
    whole = (tmp_path / "images/0.jpg").read_bytes()
    (tmp_path / "images/0.jpg").write_bytes(whole[: len(whole) // 2])
    settings = {"teacher": teacher, "unlabelled": tmp_path / "images", "epochs": 1, **LABELLING}
    with pytest.raises(DatasetError, match=r"0\.jpg"):
        run_tiny(data, tmp_path / "run", **settings)
    assert run_tiny(data, tmp_path / "run", bad_images="skip", **settings).finished
    assert "not labelled" in caplog.text
