"""Label statistics of a dataset, and their plot."""

import json

import pytest
from PIL import Image

from rtdetr.data import DetectionDataset
from rtdetr.reports.statistics import label_statistics, network_box_sizes, write_statistics
from tests.coco_files import annotation, document, many_images, write_dataset


def dataset_of(folder, content=None):
    return DetectionDataset(*write_dataset(folder, content))


def test_numbers_of_a_small_dataset(tmp_path):
    found = label_statistics(dataset_of(tmp_path), size_hw=(80, 120))
    assert found == {
        "images": 3,
        "empty_images": 1,
        "objects": 3,
        "crowd_regions": 1,
        "classes": [
            {"name": "cat", "objects": 1, "images": 1},
            {"name": "dog", "objects": 1, "images": 1},
            {"name": "bird", "objects": 1, "images": 1},
        ],
        "objects_an_image": {"mean": 1.0, "median": 1.0, "max": 2, "histogram": [1, 1, 1]},
        "network_size_hw": [80, 120],
        # image 20 of 60x40 is doubled: 20x40 and 2x2 pixels; image 30 of 32x48 becomes 120x80: 75x50 pixels
        "box_size_px": {"1%": 2.5, "10%": 7.3, "50%": 28.3, "90%": 54.6, "99%": 60.6},
        "share_by_size": {"small": 1.0, "medium": 0.0, "large": 0.0},
    }
    assert network_box_sizes(dataset_of(tmp_path), size_hw=(80, 120)).tolist() == [[20, 40], [2, 2], [75, 50]]
    assert json.loads(json.dumps(found)) == found


def test_an_object_of_each_size_and_a_class_without_any(tmp_path):
    content = document()
    content["images"] = [{"id": 1, "file_name": "a.png", "width": 200, "height": 300}]
    content["annotations"] = [
        annotation(number, 1, 3, [0, 0, side, side]) for number, side in enumerate((31, 32, 95, 96, 200))
    ]
    found = label_statistics(dataset_of(tmp_path, content), size_hw=(64, 64))
    assert found["share_by_size"] == {"small": 0.2, "medium": 0.4, "large": 0.4}
    assert [(one["objects"], one["images"]) for one in found["classes"]] == [(5, 1), (0, 0), (0, 0)]


@pytest.mark.parametrize("kind", ["small", "empty", "one image", "many classes", "crowded"])
def test_the_plot_is_drawn_for_any_dataset(tmp_path, kind):
    content = many_images(6)
    if kind == "empty":
        content["annotations"] = []
    elif kind == "one image":
        content = many_images(1)
    elif kind == "many classes":
        content["categories"] = [{"id": n, "name": f"class $ {n} <b>{'x' * n}"} for n in range(100)]
    elif kind == "crowded":
        box = content["annotations"][0]
        content["annotations"] = [{**box, "id": number} for number in range(500)]
    data = dataset_of(tmp_path / "data", content)
    parts = {"train": data} if kind == "one image" else {"train": data, "val": data}
    write_statistics(tmp_path, parts, size_hw=(64, 96))
    assert list(json.loads((tmp_path / "label_statistics.json").read_text())) == list(parts)
    with Image.open(tmp_path / "label_statistics.png") as picture:
        assert picture.size == (1440, 840)
