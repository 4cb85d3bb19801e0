"""The datasets of the learning benchmark: repeatable, readable as COCO, and as their families say."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "learning_scenes.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("learning_scenes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_family_is_coco_within_its_ranges(script, tmp_path):
    for family in (*script.FAMILIES, script.PRETRAINING, *script.UNSEEN):
        few = family._replace(train_images=3, val_images=2)
        folder = script.make_dataset(tmp_path / family.name, few, seed=1)
        for split, count in (("train", 3), ("val", 2)):
            content = json.loads((folder / "annotations" / f"{split}.json").read_text())
            assert [c["name"] for c in content["categories"]] == list(family.classes)
            sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
            assert len(sizes) == count == len(list((folder / "images" / split).iterdir()))
            for image in content["images"]:
                with Image.open(folder / "images" / split / image["file_name"]) as picture:
                    assert picture.size == sizes[image["id"]]
            numbers = Counter(annotation["image_id"] for annotation in content["annotations"])
            assert max(numbers.values(), default=0) <= family.objects[1]
            for annotation in content["annotations"]:
                x, y, w, h = annotation["bbox"]
                width, height = sizes[annotation["image_id"]]
                assert x >= 0 and y >= 0 and x + w <= width + 0.01 and y + h <= height + 0.01
                assert min(w, h) >= 1
                assert family.sides[0] - 0.01 <= max(w, h) <= family.sides[1] + 0.01
                assert 0 < annotation["area"] <= (w + 1) * (h + 1)
                assert 1 <= annotation["category_id"] <= len(family.classes)


def test_a_box_encloses_its_symbol_tightly(script):
    rng = np.random.default_rng(0)
    for name in script.SYMBOLS:
        mask = script._render(rng, name, 60.0)
        rows, columns = np.nonzero(np.asarray(mask.alpha) > 127)
        inside = np.array([columns.min(), rows.min(), -columns.max() - 1, -rows.max() - 1])
        inside = inside - np.array(mask.box) * (1, 1, -1, -1)
        # the point of a thin tip covers less than half of its pixels
        assert inside.min() > -1 and inside.max() < 3.5, name


def test_the_seed_decides(script, tmp_path):
    family = script.FAMILIES[1]._replace(train_images=2, val_images=2)
    one, same, other = (
        files_of(script.make_dataset(tmp_path / name, family, seed=seed))
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one == same and len(one) == 7
    assert all(one[name] != other[name] for name in one)
    assert one["images/train/00001.jpg"] != one["images/val/00001.jpg"]


def test_classes_are_disjoint(script):
    tuned = {name for family in script.FAMILIES for name in family.classes}
    unseen = {name for family in script.UNSEEN for name in family.classes}
    first = set(script.PRETRAINING.classes)
    assert len(first) == 40 and not (first & tuned or first & unseen or tuned & unseen)
    assert tuned | unseen | first <= set(script.SYMBOLS)
    for family in (*script.FAMILIES, *script.UNSEEN):
        assert len(set(family.classes)) == len(family.classes)
    masks = {script._template(name, bordered=False).levels[0].tobytes() for name in script.SYMBOLS}
    assert len(masks) == len(script.SYMBOLS)  # none is the sign of a missing glyph


def test_an_interrupted_drawing_leaves_nothing(script, tmp_path, monkeypatch):
    family = script.FAMILIES[0]._replace(train_images=2, val_images=1)
    draw, calls = script.draw_image, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(script, "draw_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.make_dataset(tmp_path / "data", family, seed=1)
    assert list(tmp_path.iterdir()) == []
    script.make_dataset(tmp_path / "data", family, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    script.make_dataset(tmp_path / "data", family, seed=1)  # already there
    assert len(calls) == 6
    for other in ({"seed": 2, "family": family}, {"seed": 1, "family": family._replace(rare=0.5)}):
        with pytest.raises(FileExistsError, match="not the dataset of this family and seed"):
            script.make_dataset(tmp_path / "data", **other)


def test_rare_classes_are_rarer(script):
    family = next(family for family in script.FAMILIES if family.rare < 1)
    numbers = Counter(
        annotation["category_id"]
        for image_id in range(60)
        for annotation in script.draw_image(script.generator(family, "train", 1, image_id), family, "train")[1]
    )
    assert numbers[1] > numbers[3] > numbers[6] and numbers[1] > 3 * (numbers[7] + numbers[8])


def test_shifted_validation_is_darker(script):
    def brightness(split):
        draw = (script.draw_image(script.generator(family, split, 1, i), family, split)[0] for i in range(10))
        return np.mean([np.asarray(image).mean() for image in draw])

    family = next(family for family in script.FAMILIES if family.shifted)
    assert brightness("val") < 0.75 * brightness("train")
