"""Pipelines of torchvision, of a fake albumentations, and of the real one if it is installed."""

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.data.merge import merge
from rtdetr.data.pipelines import apply_pipeline, check_pipeline
from rtdetr.data.transforms import Objects
from rtdetr.errors import ConfigError, DatasetError
from tests.coco_files import many_images, write_dataset

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
BOXES = np.array([[10, 5, 40, 30], [50, 30, 60, 40], [3, 3, 4, 4]], np.float32)
SIZE_HW = (80, 60)
NUM_CLASSES = 8


def run(pipeline, *, boxes=BOXES, seed=0, pixels=PIXELS):
    check_pipeline(pipeline)
    objects, rng = Objects((60, 40), boxes, np.arange(5, 5 + len(boxes))), np.random.default_rng(seed)
    return apply_pipeline(pipeline, pixels, objects, num_classes=NUM_CLASSES, size_hw=SIZE_HW, rng=rng)


def corners(target) -> np.ndarray:
    """Boxes as xyxy in pixels of the original image."""
    centers, sides = target["boxes"].split(2, dim=1)
    return (torch.cat([centers - sides / 2, centers + sides / 2], dim=1) * torch.tensor([60, 40, 60, 40])).numpy()


MIRRORED = np.array([[20, 5, 50, 30], [0, 30, 10, 40], [56, 3, 57, 4]], np.float32)


class Mirror:
    """A stand-in for an albumentations Compose with one horizontal flip, and with its own generator."""

    def __init__(self, box_format="pascal_voc", label_fields=("labels",), *, drop=0):
        fields = None if label_fields is None else list(label_fields)
        self.processors = {"bboxes": SimpleNamespace(params=SimpleNamespace(format=box_format, label_fields=fields))}
        self.drop = drop
        self.drawn = []
        self.generator = np.random.default_rng()

    def set_random_seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, *, image, bboxes, **fields):
        width = image.shape[1]
        self.drawn.append((self.generator.random(), random.random(), np.random.random(), torch.rand(()).item()))
        moved = []
        for x1, y1, x2, y2, *more in np.asarray(bboxes, dtype=np.float64).tolist():
            match self.processors["bboxes"].params.format:
                case "pascal_voc":
                    box = [width - x2, y1, width - x1, y2]
                case "albumentations":
                    assert max(x2, y2) <= 1
                    box = [1 - x2, y1, 1 - x1, y2]
                case "coco":
                    box = [width - x1 - x2, y1, x2, y2]
                case _:
                    assert max(x1, y1) <= 1
                    box = [1 - x1, y1, x2, y2]
            moved.append([*box, *more])
        kept = slice(self.drop, None)
        lists = {name: list(values)[kept] for name, values in fields.items()}
        return {"image": image[:, ::-1], "bboxes": moved[kept], **lists}


@pytest.mark.parametrize("box_format", ["pascal_voc", "albumentations", "coco", "yolo"])
@pytest.mark.parametrize("fields", [("labels",), ("class_labels", "again"), None])
def test_albumentations_pipelines_get_their_own_format(box_format, fields):
    pixels, target = run(Mirror(box_format, fields))
    np.testing.assert_allclose(corners(target), MIRRORED, atol=1e-4)
    assert target["labels"].tolist() == [5, 6, 7]
    plain, _ = run(lambda image, target: (image, target))
    np.testing.assert_array_equal(pixels, plain[:, ::-1])
    pixels, target = run(Mirror(box_format, fields, drop=2))
    assert target["labels"].tolist() == [7]
    assert run(Mirror(box_format, fields), boxes=BOXES[:0])[1]["boxes"].shape == (0, 4)
    assert run(Mirror(box_format, fields, drop=3))[1]["boxes"].shape == (0, 4)


def test_torchvision_pipelines_work_as_they_are():
    pipeline = v2.Compose([v2.RandomHorizontalFlip(p=1.0), v2.RandomPhotometricDistort(p=1.0)])
    pixels, target = run(pipeline)
    assert pixels.shape == (80, 60, 3)
    np.testing.assert_allclose(corners(target), MIRRORED, atol=1e-4)
    cropping = v2.Compose([v2.RandomCrop((8, 8)), v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True)])
    sizes = {len(run(cropping, seed=seed)[1]["labels"]) for seed in range(12)}
    assert sizes >= {0, 1}


def test_interpolation_may_slightly_exceed_the_range():
    def pipeline(image, target):
        values = image.to(torch.float32) / 255
        return torch.where(values == 1, 1.0000001, torch.where(values == 0, -0.0005, values)), target

    assert {0, 255} <= set(PIXELS.ravel())
    np.testing.assert_array_equal(run(pipeline).pixels, run(lambda image, target: (image, target)).pixels)


def test_boxes_in_another_form_are_understood():
    def pipeline(image, target):
        target["boxes"] = v2.functional.convert_bounding_box_format(
            target["boxes"], new_format=tv_tensors.BoundingBoxFormat.CXCYWH
        )
        return v2.functional.to_pil_image(image), target

    _, target = run(pipeline)
    np.testing.assert_allclose(corners(target), BOXES, atol=1e-4)


@pytest.mark.parametrize("pipeline", [v2.RandomPhotometricDistort(), Mirror()])
def test_a_sample_follows_from_its_generator_only(pipeline):
    first = run(pipeline, seed=3)
    for _ in range(5):
        random.random(), np.random.random(), torch.rand(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again, other = run(pipeline, seed=3), run(pipeline, seed=4)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    if isinstance(pipeline, Mirror):
        assert pipeline.drawn[0] == pipeline.drawn[1]
        assert not set(pipeline.drawn[0]) & set(pipeline.drawn[2])
    else:
        assert not np.array_equal(first.pixels, other.pixels)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def changed(**target):
    return lambda image, old: (image, {**old, **target})


def moved(corners):
    """A pipeline that gives the first box these corners."""

    def pipeline(image, target):
        boxes = torch.cat([torch.tensor([corners], dtype=torch.float32), target["boxes"][1:].as_subclass(torch.Tensor)])
        return image, {**target, "boxes": tv_tensors.wrap(boxes, like=target["boxes"])}

    return pipeline


BROKEN = {
    "labels are missing": (changed(labels=torch.zeros(1, dtype=torch.int64)), "3 boxes and 1 label"),
    "plain boxes": (changed(boxes=torch.zeros(3, 4)), "expected torchvision's BoundingBoxes"),
    "normalized": (
        lambda image, target: (v2.functional.to_dtype(image, torch.float32, scale=True) * 4 - 2, target),
        "mean",
    ),
    "gray": (lambda image, target: (v2.functional.rgb_to_grayscale(image), target), "with 1 channel; expected 3"),
    "beyond the margin": (lambda image, target: (image / 255 * 1.1, target), r"values 0\.\.1\.1; expected"),
    "not a number": (lambda image, target: (image * torch.nan, target), "values nan"),
    "integers": (lambda image, target: (image.to(torch.int32), target), "expected uint8"),
    "raises": (lambda image, target: 1 / 0, r"ZeroDivisionError: division by zero \(.*test_pipelines\.py, line"),
    "nothing": (lambda image, target: None, r"returned None; expected the image and the target: return image,"),
    "the image alone": (lambda image, target: image, "returned Image; expected the image and the target"),
    "a pair of others": (lambda image, target: (target, image), r"returned \(dict, Image\); expected"),
    "no labels": (lambda image, target: (image, {"boxes": target["boxes"]}), "a target without 'labels'"),
    "a box that is not a number": (moved([np.nan, 1, 2, 3]), r"the box \(nan, 1, 2, 3\); expected finite"),
    "an infinite box": (moved([0, 1, np.inf, 3]), r"the box \(0, 1, inf, 3\); expected finite"),
    "an inverted box": (moved([5, 1, 2, 3]), r"the box \(5, 1, 2, 3\); expected .* x1 <= x2"),
    "a label too high": (changed(labels=torch.tensor([0, 1, NUM_CLASSES])), "the label 8; expected .* from 0 to 7"),
    "a negative label": (changed(labels=torch.tensor([0, -1, 1])), "the label -1; expected"),
    "a label between two": (changed(labels=torch.tensor([0, 1.5, 1])), r"the label 1\.5; expected whole numbers"),
    "a label that is not a number": (changed(labels=torch.tensor([0, torch.nan, 1])), "the label nan; expected"),
    "texts for labels": (changed(labels=["cat", "dog", "cat"]), "the label cat; expected whole numbers"),
    "labels as rows": (changed(labels=torch.zeros(3, 1, dtype=torch.int64)), r"labels of shape \(3, 1\); expected"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_pipeline_that_fails_is_reported_in_one_line(name):
    pipeline, problem = BROKEN[name]
    with pytest.raises(DatasetError, match=problem) as caught:
        run(pipeline)
    assert "\n" not in str(caught.value)


def test_invalid_pipelines_are_refused_immediately():
    with pytest.raises(ConfigError, match="got list"):
        check_pipeline([])
    blind = Mirror()
    blind.processors = {}
    with pytest.raises(ConfigError, match="bbox_params="):
        check_pipeline(blind)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return DetectionDataset(*write_dataset(tmp_path_factory.mktemp("set"), many_images(8)))


RECIPE = Recipe(batch_size=4, train_size_hw=(64, 64), multiscale_sizes=(), augmentation_stop_epoch=1, mosaic=1.0)


def test_the_loader_uses_the_pipeline_while_the_recipe_augments(dataset):
    pipeline = v2.Compose([v2.RandomPhotometricDistort(p=1.0)])
    loaders = [TrainLoader(dataset, RECIPE, transforms=pipeline, num_workers=workers) for workers in (0, 1)]
    alone, helped = (list(loader) for loader in loaders)
    for (images, targets), (others, _) in zip(alone, helped, strict=True):
        assert torch.equal(images, others)
        assert images.shape == (4, 3, 64, 64)
        assert len(targets) == 4
    for loader in loaders:
        loader.set_epoch(1)
    expected = TrainLoader(dataset, RECIPE.replace(flip=0.0))
    expected.set_epoch(1)
    for (images, _), (others, _), (plain, _) in zip(*loaders, expected, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(images, plain)


def test_an_image_of_merged_datasets_is_named_with_its_own_file(dataset, tmp_path):
    other = DetectionDataset(*write_dataset(tmp_path, many_images(4, seed=1)))
    joined = merge([dataset, other])
    assert joined.image_ids[8] == 9
    loader = TrainLoader(joined, RECIPE.replace(batch_size=12))
    assert sorted(loader.image_ids(0)) == sorted([*range(1, 9), *range(1, 5)])

    def fail_on_the_second(image, target):
        return 1 / 0 if image.shape[-2:] == shape else (image, target)

    width, height = other.annotations.sizes_wh[2].tolist()
    shape = (height, width)
    loader = TrainLoader(joined, RECIPE.replace(batch_size=12), transforms=fail_on_the_second)
    with pytest.raises(DatasetError, match=rf"^image 3 \({re.escape(str(other.path(2)))}\): transforms failed"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_pipeline_names_the_image(dataset, workers):
    loader = TrainLoader(dataset, RECIPE, transforms=lambda image, target: 1 / 0, num_workers=workers)
    with pytest.raises(DatasetError, match=r"image \d+ \(.*\.png\): transforms failed with ZeroDivisionError"):
        list(loader)


def test_the_real_albumentations(dataset):
    albumentations = pytest.importorskip("albumentations")
    params = albumentations.BboxParams("pascal_voc", label_fields=["labels"])
    pipeline = albumentations.Compose([albumentations.HorizontalFlip(p=1.0)], bbox_params=params)
    np.testing.assert_allclose(corners(run(pipeline)[1]), MIRRORED, atol=1e-3)
    steps = [albumentations.HorizontalFlip(), albumentations.RandomBrightnessContrast(p=1.0)]
    noisy = albumentations.Compose(steps, bbox_params=params)
    first, again, other = (run(noisy, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert len(list(TrainLoader(dataset, RECIPE, transforms=noisy, num_workers=1))) == 2
