import pickle

import numpy as np
import pytest
from PIL import Image

from rtdetr.categories import Categories, Category
from rtdetr.data import DetectionDataset
from rtdetr.errors import DatasetError
from rtdetr.preprocessing import load_image
from tests.coco_files import CATEGORIES, document, write_dataset


@pytest.fixture
def dataset(tmp_path):
    return DetectionDataset(*write_dataset(tmp_path))


def test_load_gives_an_image_and_its_objects(dataset):
    assert len(dataset) == 3
    assert dataset.image_ids.tolist() == [10, 20, 30]
    image, target = dataset.load(1)
    assert image.mode == "RGB"
    assert image.size == target["size_wh"] == (60, 40)
    assert target["image_id"] == 20
    assert target["boxes_xyxy"].tolist() == [[1.5, 2, 11.5, 22], [30, 10, 31, 11], [0, 0, 60, 40]]
    assert target["boxes_xyxy"].dtype == np.float32
    assert target["labels"].tolist() == [0, 1, 0]
    assert target["labels"].dtype == np.int64
    assert target["area"].tolist() == [200, 1, 2400]
    assert target["iscrowd"].tolist() == [False, False, True]


def test_an_image_without_objects_has_empty_arrays(dataset):
    target = dataset.load(0)[1]
    assert target["boxes_xyxy"].shape == (0, 4)
    assert target["labels"].shape == target["area"].shape == target["iscrowd"].shape == (0,)


def test_a_box_beyond_the_border_is_clipped(dataset):
    assert dataset.target(2)["boxes_xyxy"].tolist() == [[20, 30, 32, 48]]


def test_gray_and_palette_images_become_rgb(dataset):
    for index, mode in ((0, "L"), (1, "P"), (2, "RGBA")):
        image = Image.open(dataset.path(index)).convert(mode)
        image.save(dataset.path(index), format="PNG")
        assert dataset.load(index)[0].mode == "RGB"


def test_a_copy_for_a_worker_process_is_small_and_equal(dataset):
    data = pickle.dumps(dataset)
    assert len(data) < 5000
    assert pickle.loads(data).load(1)[1]["labels"].tolist() == [0, 1, 0]


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    images_dir, annotations_file = write_dataset(tmp_path)
    (images_dir / "b.jpg").unlink()
    (images_dir / "c.jpg").unlink()
    with pytest.raises(DatasetError, match=r"data\.json: 2 of its 3 images are not in .*images; the first is 'b\.jpg'"):
        DetectionDataset(images_dir, annotations_file)
    with pytest.raises(DatasetError, match="3 of its 3 images are not in"):
        DetectionDataset(tmp_path / "elsewhere", annotations_file)


@pytest.mark.parametrize("name", ["sub/a.jpg", "sub//a.jpg", "sub/../sub/a.jpg"])
def test_file_names_may_have_folders(tmp_path, name):
    content = document()
    (tmp_path / "images" / "sub").mkdir(parents=True)
    content["images"][1]["file_name"] = name
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    assert dataset.load(0)[0].size == (50, 50)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"no image"])
def test_a_damaged_image_is_a_dataset_error_naming_the_file(dataset, damage):
    file = dataset.path(1)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DatasetError, match=r"data\.json: image 20: .*b\.jpg") as caught:
        dataset.load(1)
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_is_refused(dataset):
    Image.new("RGB", (61, 40)).save(dataset.path(1))
    with pytest.raises(DatasetError, match=r"image 20 is annotated as 60x40 pixels, but .*b\.jpg is 61x40"):
        dataset.load(1)


def test_exif_rotation_follows_the_size_that_was_annotated(dataset):
    # 60x40 was annotated: either the upright image, which is stored lying, or the stored one as it is
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 255  # white top left corner
    upright = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    upright.transpose(Image.Transpose.ROTATE_90).save(dataset.path(1), exif=exif, quality=100)
    np.testing.assert_allclose(np.asarray(dataset.load(1)[0]).astype(int), pixels, atol=3)
    upright.save(dataset.path(1), exif=exif, quality=100)
    np.testing.assert_allclose(np.asarray(dataset.load(1)[0]).astype(int), pixels, atol=3)


def test_an_array_is_what_prediction_reads(dataset):
    pixels, target = dataset.load_array(1)
    np.testing.assert_array_equal(pixels, np.asarray(dataset.load(1)[0]))
    assert target["labels"].tolist() == [0, 1, 0]
    gray, _ = dataset.load_array(1, num_channels=1)
    np.testing.assert_array_equal(gray, load_image(dataset.path(1), num_channels=1))
    assert gray.shape == (40, 60, 1)
    with pytest.raises(DatasetError, match=r"image 20: expected an image with 5 channels for this model, got .*b\.jpg"):
        dataset.load_array(1, num_channels=5)


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 257)])
@pytest.mark.parametrize("name", ["b.npy", "b.tif"])
def test_images_with_other_channel_counts(tmp_path, name, dtype, scale):
    content = document()
    content["images"][0]["file_name"] = "b.png"
    images_dir, annotations_file = write_dataset(tmp_path, content)
    annotations_file.write_text(annotations_file.read_text().replace("b.png", name))
    expected = np.random.default_rng(0).integers(0, 256, (40, 60, 5), dtype=np.uint8)
    stored = expected.astype(dtype) * scale
    if name == "b.npy":
        np.save(images_dir / name, stored)
    else:
        first, *others = [Image.fromarray(np.ascontiguousarray(stored[:, :, band])) for band in range(5)]
        first.save(images_dir / name, save_all=True, append_images=others)
    pixels, target = DetectionDataset(images_dir, annotations_file).load_array(1, num_channels=5)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8 and target["size_wh"] == (60, 40)


def test_an_array_of_another_size_is_refused(tmp_path):
    content = document()
    content["images"][0]["file_name"] = "b.png"
    images_dir, annotations_file = write_dataset(tmp_path, content)
    annotations_file.write_text(annotations_file.read_text().replace("b.png", "b.npy"))
    np.save(images_dir / "b.npy", np.zeros((41, 60, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"image 20 is annotated as 60x40 pixels, but .*b\.npy is 60x41"):
        DetectionDataset(images_dir, annotations_file).load(1)


def test_labels_of_a_model_are_matched_by_name(dataset):
    model = Categories([Category(0, "bird"), Category(1, "cat"), Category(2, "dog")])
    relabeled = dataset.with_categories(model)
    assert relabeled.target(1)["labels"].tolist() == [1, 2, 1]
    assert relabeled.target(2)["labels"].tolist() == [0]
    assert relabeled.categories.names == model.names
    assert relabeled.categories.ids == [90, 3, 7]  # of the file
    assert dataset.target(1)["labels"].tolist() == [0, 1, 0]  # the original is as it was
    given = DetectionDataset(dataset.images_dir, dataset.annotations_file, categories=model)
    assert given.categories == relabeled.categories
    assert given.target(1)["labels"].tolist() == [1, 2, 1]


def test_a_model_without_class_names_is_matched_by_position(dataset):
    relabeled = dataset.with_categories(Categories.numbered(3))
    assert relabeled.target(1)["labels"].tolist() == [0, 1, 0]
    assert relabeled.categories == dataset.categories


def test_other_classes_are_listed(dataset):
    model = Categories([Category(0, "bird"), Category(1, "cow"), Category(2, "cat")])
    with pytest.raises(DatasetError, match="only the model has 'cow'; only the file has 'dog'"):
        dataset.with_categories(model)
    with pytest.raises(
        DatasetError, match=r"expected the 80 classes of the model, got 3; only the model has .* and 75 more"
    ):
        dataset.with_categories(Categories.numbered(80))


def test_unused_classes_may_be_missing_in_the_model(tmp_path, caplog):
    content = document()
    content["categories"].append({"id": 91, "name": "fox"})
    images_dir, annotations_file = write_dataset(tmp_path, content)
    dataset = DetectionDataset(images_dir, annotations_file)
    model = Categories([Category(0, "bird"), Category(1, "cat"), Category(2, "dog")])
    assert dataset.with_categories(model).target(1)["labels"].tolist() == [1, 2, 1]
    assert caplog.messages[-1] == (
        f"{annotations_file} lists 1 class without objects that the model does not have; omitted: 'fox'"
    )
    content["annotations"] = []
    empty = DetectionDataset(*write_dataset(tmp_path / "empty", content))
    assert len(empty.with_categories(model).target(1)["labels"]) == 0
    with pytest.raises(DatasetError, match="only the model has 'cow'"):  # nothing in common
        empty.with_categories(Categories([Category(0, "cow")]))


def test_repr_has_the_counts(dataset):
    assert repr(dataset).endswith("data.json: 3 images, 4 boxes, 3 classes)")


def test_bad_boxes_can_be_dropped(tmp_path):
    content = document()
    content["annotations"][1]["bbox"] = [5, 5, 0, 5]
    paths = write_dataset(tmp_path, content)
    with pytest.raises(DatasetError, match="annotation 2"):
        DetectionDataset(*paths)
    assert len(DetectionDataset(*paths, on_bad_box="drop").target(1)["labels"]) == 2
    assert [row["id"] for row in CATEGORIES] == [3, 7, 90]


def test_too_large_images_are_found_from_the_annotations(dataset, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # is set when an image is read
    monkeypatch.setenv("RTDETR_MAX_PIXELS", "2450")
    with pytest.raises(DatasetError, match=r"1 of 3 images has more than 2,\d+ pixels; the largest is .*--max-pixels"):
        dataset.check_pixels()
    dataset.skipping_bad_images().check_pixels()
    monkeypatch.setenv("RTDETR_MAX_PIXELS", "3000")
    dataset.check_pixels()
