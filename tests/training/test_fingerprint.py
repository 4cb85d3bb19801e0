"""A resumed run keeps its classes even if their order in the data has changed, and reports other changes."""

import pytest

from rtdetr.categories import Categories, Category
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.errors import ConfigError
from rtdetr.training.fingerprint import fingerprint, fingerprints, report_changes, update_classes, with_saved_labels
from rtdetr.weights import read_checkpoint, save_weights
from tests.coco_files import document, exchanged, many_images, renamed, write_dataset
from tests.weights.small import assert_same, small


def dataset_of(folder, content=None):
    return DetectionDataset(*write_dataset(folder, content))


def checkpoint_of(dataset, *, without=()):
    """The entries of a checkpoint that tell of its data."""
    content = {"rtdetr": {"categories": dataset.categories.to_json()}, "data": fingerprints({"train": dataset})}
    return {key: value for key, value in content.items() if key not in without}


def resumed(former, dataset, val=None):
    """The datasets of a resumed run, and the messages."""
    said = []
    datasets = {"train": dataset} | ({} if val is None else {"val": val})
    datasets = with_saved_labels(former, datasets, say=said.append)
    names = datasets["train"].categories.names
    report_changes(former, fingerprints(datasets), names=names, say=said.append)
    return datasets, said


def test_unchanged_data_is_as_it_was(tmp_path):
    before = dataset_of(tmp_path / "a")
    moved = dataset_of(tmp_path / "b")
    datasets, said = resumed(checkpoint_of(before), moved)
    assert datasets["train"] is moved and said == []


def test_object_order_and_rounding_do_not_matter(tmp_path):
    content = document()
    content["annotations"] = content["annotations"][::-1]
    for row in content["annotations"]:
        row["bbox"] = [value + 1e-9 for value in row["bbox"]]
    assert resumed(checkpoint_of(dataset_of(tmp_path / "a")), dataset_of(tmp_path / "b", content))[1] == []


def test_reordered_classes_keep_the_labels_of_the_run(tmp_path):
    before, now = dataset_of(tmp_path / "a"), dataset_of(tmp_path / "b", exchanged(document()))
    val = now.with_categories(now.categories)
    datasets, said = resumed(checkpoint_of(before), now, val)
    for dataset in datasets.values():
        assert dataset.categories.names == before.categories.names
        assert dataset.annotations.labels.tolist() == before.annotations.labels.tolist()
        assert dataset.categories.ids == [7, 3, 90]  # those of the files as they are now
    assert (
        len(said) == 1 and "the dataset lists 2 of 3 classes in a different order than the run: 'cat', 'dog'" in said[0]
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_changed_boxes_images_and_classes_are_counted(tmp_path, seed):
    content = many_images(6, seed=seed)
    before = dataset_of(tmp_path / "a", content)
    first, second, *_ = (row for row in content["annotations"] if row["image_id"] != 6)
    first["bbox"][2] += 1
    second["category_id"] = {3: 7, 7: 90, 90: 3}[second["category_id"]]
    content["images"][5]["file_name"] = "new.png"
    changed = len({first["image_id"], second["image_id"]})
    (said,) = resumed(checkpoint_of(before), dataset_of(tmp_path / "b", content))[1]
    verb = "has" if changed == 1 else "have"
    assert f"{changed} of 6 images {verb} other boxes, classes or sizes, 1 is new, 1 is missing" in said


def test_images_in_another_order_are_reported(tmp_path):
    content = document()
    content["images"][1]["id"] = 99
    (said,) = resumed(checkpoint_of(dataset_of(tmp_path / "a")), dataset_of(tmp_path / "b", content))[1]
    assert "a different order" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.append({"id": 91, "name": "fox"}), "differ from those of the run: only in the data: 'fox'."),
        (lambda rows: rows.pop(2), "the run: only in the run: 'bird'."),
        (
            lambda rows: rows[0].update(name="fox") or rows.pop(2),
            "only in the data: 'fox'; only in the run: 'cat', 'bird'.",
        ),
    ],
)
def test_added_and_removed_classes_are_refused_by_name(tmp_path, change, message):
    content = document()
    content["annotations"].pop(0)  # the bird
    before = dataset_of(tmp_path / "a", content)
    change(content["categories"])
    with pytest.raises(ConfigError, match=message) as error:
        resumed(checkpoint_of(before), dataset_of(tmp_path / "b", content))
    assert "--weights RUN" in str(error.value)


def test_a_renamed_class_with_the_same_objects_is_reported(tmp_path):
    content = document()
    before = dataset_of(tmp_path / "a", content)
    content["categories"][1]["name"] = "hound"
    now = dataset_of(tmp_path / "b", content)
    datasets, said = resumed(checkpoint_of(before), now)
    assert datasets["train"].annotations.labels.tolist() == before.annotations.labels.tolist()
    assert said == ["resume: 1 class with the same objects has been renamed: 'dog' is now 'hound'"]
    with pytest.raises(ConfigError, match="only in the data: 'hound'; only in the run: 'dog'"):
        resumed(checkpoint_of(before, without=["data"]), now)
    content["annotations"][2]["bbox"][0] += 1  # a hound that no dog was at
    with pytest.raises(ConfigError, match="only in the data: 'hound'"):
        resumed(checkpoint_of(before), dataset_of(tmp_path / "c", content))


def test_a_renamed_and_a_reordered_class_are_both_reported(tmp_path):
    before = dataset_of(tmp_path / "a")
    now = dataset_of(tmp_path / "b", renamed(exchanged(document()), bird="fox"))
    assert now.categories.names == ["dog", "cat", "fox"]
    datasets, said = resumed(checkpoint_of(before), now)
    assert datasets["train"].categories.names == ["cat", "dog", "fox"]
    assert datasets["train"].annotations.labels.tolist() == before.annotations.labels.tolist()
    assert [text.partition("; ")[0] for text in said] == [
        "resume: 1 class with the same objects has been renamed: 'bird' is now 'fox'",
        "resume: the dataset lists 2 of 3 classes in a different order than the run: 'cat', 'dog'",
    ]


def test_several_renamed_classes_are_matched_by_their_objects(tmp_path):
    before = dataset_of(tmp_path / "a")
    names = {"cat": "zebra", "dog": "ape"}
    datasets, said = resumed(checkpoint_of(before), dataset_of(tmp_path / "b", renamed(exchanged(document()), **names)))
    assert datasets["train"].categories.names == ["zebra", "ape", "bird"]
    assert "'cat' is now 'zebra', 'dog' is now 'ape'" in said[0] and "'zebra', 'ape'" in said[1] and len(said) == 2


def test_ambiguous_renamed_classes_are_refused(tmp_path):
    content = document()
    content["annotations"] = [row for row in content["annotations"] if row["category_id"] == 3]
    before = dataset_of(tmp_path / "a", content)
    now = dataset_of(tmp_path / "b", renamed(content, dog="fox", bird="owl"))
    with pytest.raises(ConfigError, match=r"'fox', 'owl'; only in the run: 'dog', 'bird'\. Renamed classes"):
        resumed(checkpoint_of(before), now)
    one = dataset_of(tmp_path / "c", renamed(content, bird="owl"))
    assert resumed(checkpoint_of(before), one)[1] == [
        "resume: 1 class with the same objects has been renamed: 'bird' is now 'owl'"
    ]


def test_swapped_names_are_reported(tmp_path):
    """By name the objects are others: that is followed, and said as what it most likely is."""
    before = dataset_of(tmp_path / "a")
    now = dataset_of(tmp_path / "b", renamed(document(), cat="dog", dog="cat"))
    datasets, said = resumed(checkpoint_of(before), now)
    assert datasets["train"].categories.names == ["cat", "dog", "bird"]
    assert "'cat' now has those of 'dog'; 'dog' now has those of 'cat'" in said[1] and "1 of 3 images" in said[2]


def test_best_weights_get_the_names_and_ids_of_the_data(tmp_path):
    dataset, said, path = dataset_of(tmp_path / "a"), [], tmp_path / "best.pth"
    former, new = checkpoint_of(dataset), Categories([Category(7, "cat"), Category(3, "hound"), Category(90, "bird")])
    update_classes([path], former, new, say=said.append)
    assert not path.exists() and not said
    model = small(num_classes=3)
    save_weights(model, path, categories=dataset.categories)
    content = path.read_bytes()
    update_classes([path], former, dataset.categories, say=said.append)
    assert path.read_bytes() == content and not said
    update_classes([path], former, new, say=said.append)
    assert said == [
        "resume: updated the class names and category ids in best.pth to those of the data; weights are unchanged"
    ]
    found = read_checkpoint(path)
    assert found.categories == new
    assert_same(found.state, model.state_dict())
    update_classes([path], former, new, say=said.append)
    assert len(said) == 1
    update_classes([path], former, Categories.numbered(3), say=said.append)
    assert "best.pth, which are neither" in said[1]
    path.write_bytes(b"PK")
    update_classes([path], former, new, say=said.append)
    assert "damaged" in said[2] and path.read_bytes() == b"PK"


def test_older_and_foreign_checkpoints_are_resumed_with_a_message(tmp_path):
    dataset = dataset_of(tmp_path)
    old = checkpoint_of(dataset, without=["data"])
    assert [text.partition(",")[0] for text in resumed(old, dataset)[1]] == [
        "resume: the checkpoint has no fingerprint of its data"
    ]
    datasets, said = resumed({}, dataset)
    assert datasets["train"] is dataset
    assert "has no class names" in said[0] and "no fingerprint" in said[1]


def test_data_without_objects_and_of_one_pixel_boxes(tmp_path):
    content = document()
    content["annotations"] = [row for row in content["annotations"] if row["bbox"][2:] == [1, 1]]
    one = fingerprint(dataset_of(tmp_path / "one", content))
    content["annotations"] = []
    none = fingerprint(dataset_of(tmp_path / "none", content))
    assert one.shape == none.shape == (3, 2) and (one[:, 0] == none[:, 0]).all() and (one != none).sum() == 1


def test_a_table_in_python_is_matched_by_name_too(tmp_path):
    before = dataset_of(tmp_path / "a")
    other = before.with_categories(Categories([Category(1, "bird"), Category(2, "dog"), Category(3, "cat")]))
    assert resumed(checkpoint_of(before), open_dataset(other, split="train"))[0]["train"].categories.names == [
        *("cat", "dog", "bird")
    ]
