import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtdetr.data import open_dataset
from rtdetr.errors import DatasetError


def write(root, labels, *, names="[cat, dog, bird]", size=(60, 40), more=""):
    """Images a.png, b.png, ... with these label files; None writes no file."""
    for folder in ("images/train", "labels/train"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for letter, text in zip("abcdefg", labels, strict=False):
        Image.new("RGB", size).save(root / "images/train" / f"{letter}.png")
        if text is not None:
            (root / "labels/train" / f"{letter}.txt").write_text(text)
    (root / "data.yaml").write_text(f"train: images/train\nnames: {names}\n{more}")
    return root


def read(root, **options):
    return open_dataset(root, split="train", **options)


def test_boxes_outlines_and_empty_images(tmp_path):
    rows = "0 0.5 0.5 0.5 0.25\n\n2.0 0.1 0.2 0.9 0.2 0.9 0.8 0.5 1.0\n"
    dataset = read(write(tmp_path, [rows, "", None]))
    assert len(dataset) == 3
    assert dataset.categories.names == ["cat", "dog", "bird"] and dataset.categories.ids == [0, 1, 2]
    assert dataset.target(0)["boxes_xyxy"].tolist() == [[15, 15, 45, 25], [6, 8, 54, 40]]
    assert dataset.target(0)["labels"].tolist() == [0, 2]
    assert dataset.target(0)["area"].tolist() == pytest.approx([300, 48 * 32])
    assert not dataset.target(0)["iscrowd"].any()
    assert dataset.target(0)["size_wh"] == (60, 40)
    assert [len(dataset.target(i)["labels"]) for i in (1, 2)] == [0, 0]
    assert dataset.load(2)[0].size == (60, 40)
    assert dataset.path(0) == tmp_path / "images/train/a.png"


def test_keypoints_are_ignored(tmp_path):
    rows = "0 0.5 0.5 0.5 0.25 0.9 0.9 0.1 0.2\n1 0.5 0.5 1 1\n"
    more = "kpt_shape: [2, 2]\n"
    dataset = read(write(tmp_path, [rows], more=more))
    assert dataset.target(0)["boxes_xyxy"].tolist() == [[15, 15, 45, 25], [0, 0, 60, 40]]
    rows = "0 0.5 0.5 0.5 0.25 0.9 0.9 2 0 0 0\n"
    assert len(read(write(tmp_path, [rows], more="kpt_shape: [2, 3]\n")).target(0)["labels"]) == 1
    with pytest.raises(DatasetError, match=r"a\.txt:1: expected 'class cx cy w h' and 4 numbers of keypoints"):
        read(write(tmp_path, [rows], more=more))
    for wrong in ("[17]", "17", "[0, 2]", "[17, 4]", "{a: b}", "[x, 2]"):
        with pytest.raises(DatasetError, match=r"data\.yaml: expected kpt_shape as"):
            read(write(tmp_path, [rows], more=f"kpt_shape: {wrong}\n"))


def test_images_named_by_numbers_keep_them_as_ids(tmp_path):
    root = write(tmp_path, ["0 0.5 0.5 1 1", ""])
    for letter, number in (("a", "000139"), ("b", "00007")):
        (root / f"images/train/{letter}.png").rename(root / f"images/train/{number}.png")
    (root / "labels/train/a.txt").rename(root / "labels/train/000139.txt")
    dataset = read(root)
    assert dataset.image_ids.tolist() == [7, 139]
    assert dataset.target(1)["labels"].tolist() == [0]
    (root / "images/train/7.png").write_bytes((root / "images/train/00007.png").read_bytes())
    assert read(root).image_ids.tolist() == [0, 1, 2]  # two of them would have number 7


def test_ids_may_have_gaps_and_names_stay_text(tmp_path):
    dataset = read(write(tmp_path, ["10 0.5 0.5 1 1\n3 0.5 0.5 1 1"], names="{10: no, 3: 1.0}"))
    assert dataset.categories.ids == [3, 10]
    assert dataset.categories.names == ["1.0", "no"]
    assert dataset.target(0)["labels"].tolist() == [1, 0]


def test_only_the_number_of_classes_is_enough(tmp_path):
    root = write(tmp_path, ["1 0.5 0.5 1 1"])
    (root / "data.yaml").write_text("train: images/train\nnc: 2\n")
    assert read(root).categories.names == ["class 0", "class 1"]


def test_a_rotated_photo_is_measured_upright(tmp_path):
    root = write(tmp_path, ["0 0.5 0.5 1 1"])
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "images/train/a.png").unlink()
    Image.new("RGB", (60, 40)).save(root / "images/train/a.jpg", exif=exif)
    image, target = read(root).load(0)
    assert target["size_wh"] == image.size == (40, 60)
    assert target["boxes_xyxy"].tolist() == [[0, 0, 40, 60]]


@pytest.mark.parametrize(
    "entries",
    [
        "path: .\ntrain: images/train",
        "path: ../set\ntrain: images/train/",
        "train: [images/train]",
        "train: ../images/train",  # what lies beside the file, in the words of some exports
        "path: /nowhere/on/this/machine\ntrain: images/train",
        "train: list.txt",
        "train: [images/train, list.txt]",
        "train: images/train/a.png",
    ],
)
def test_places_of_images(tmp_path, entries):
    root = write(tmp_path / "set", ["0 0.5 0.5 1 1"])
    (root / "list.txt").write_text("./images/train/a.png\n\n")
    (root / "data.yaml").write_text(f"{entries}\nnames: [cat]\n")
    dataset = read(root)
    assert dataset.path(0) == root / "images/train/a.png"
    assert dataset.target(0)["labels"].tolist() == [0]
    assert read(root / "data.yaml").annotations_file == root / "data.yaml"


def test_other_names_of_the_val_split_and_labels_next_to_images(tmp_path):
    root = write(tmp_path, [""])
    (root / "photos").mkdir()
    Image.new("L", (8, 8)).save(root / "photos/x.png")
    (root / "photos/x.txt").write_text("1 0.5 0.5 0.5 0.5")
    with (root / "data.yaml").open("a") as file:
        file.write("valid: photos\n")
    assert open_dataset(root, split="val").target(0)["boxes_xyxy"].tolist() == [[2, 2, 6, 6]]


WRONG_ROWS = {
    "class": (
        "0 0.5 0.5 1 1\n3 0.5 0.5 1 1",
        r"a\.txt:2: class 3 does not exist: .*data\.yaml has the 3 classes 0 to 2",
    ),
    "negative class": ("-1 0.5 0.5 1 1", r"a\.txt:1: class -1 does not exist"),
    "half a class": ("0.5 0.5 0.5 1 0.5", r"a\.txt:1: class 0\.5 does not exist"),
    "no number": ("0 0.5 0.5 x 1", r"a\.txt:1: expected 'class cx cy w h'.*got '0 0\.5 0\.5 x 1'"),
    "nan": ("0 nan 0.5 1 1", r"a\.txt:1: expected fractions of the image's sides, 0 to 1"),
    "nan class": ("nan 0.5 0.5 1 1", r"a\.txt:1: class nan does not exist"),
    "pixels": ("\n0 30 20 10 10", r"a\.txt:2: expected fractions .*Divide pixel coordinates by the width and height"),
    "short": ("0 0.5 0.5 1", r"a\.txt:1: expected 'class .* got 4 numbers"),
    "even": ("0 0.5 0.5 1 1 1", r"a\.txt:1: expected 'class .* got 6 numbers"),
    "no width": (
        "1 0.5 0.5 0 0.5",
        r"a\.txt:1: object of class 1 \('dog'\) has bbox \[30, 10, 0, 20\]; expected width",
    ),
    "line": ("1 0.1 0.1 0.1 0.5 0.1 0.9", r"a\.txt:1: object of class 1 .*expected width and height > 0"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_a_wrong_row_is_named_with_file_and_line(tmp_path, name):
    text, problem = WRONG_ROWS[name]
    root = write(tmp_path, [text])
    with pytest.raises(DatasetError, match=problem) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_boxes_without_area_can_be_dropped(tmp_path):
    root = write(tmp_path, ["1 0.5 0.5 0 0.5\n2 0.5 0.5 1 1"])
    assert read(root, on_bad_box="drop").target(0)["labels"].tolist() == [2]


WRONG_YAML = {
    "no mapping": ("text", "expected 'key: value' lines with the keys .*, got text 'text'"),
    "not yaml": ("names: [", "data.yaml, line 1: not valid YAML: .*Expected keys 'names', 'train' and 'val'"),
    "no train": ("names: [a]\nval: x", "expected a key 'train' with the folder of its images, got .*val"),
    "no folder": ("names: [a]\ntrain: x", "train 'x' does not exist; looked for /.*/x, /.*/x. Relative paths start"),
    "number": ("names: 3\ntrain: images/train", "expected 'names' as a list .*; got names: '3'"),
    "lists": ("names: [[a]]\ntrain: images/train", "expected 'names' as a list"),
    "text keys": ("names: {a: b}\ntrain: images/train", "expected 'names' as a list"),
    "negative": ("names: {-1: b}\ntrain: images/train", "class numbers >= 0"),
    "twice": ("names: [a, b, a]\ntrain: images/train", "two classes are named 'a'"),
    "count": ("names: [a]\nnc: 2\ntrain: images/train", "nc is 2, but 'names' has 1 class"),
    "path": ("names: [a]\npath: [x]\ntrain: images/train", r"data.yaml: path: expected text, .* got a list \['x'\]"),
    "entry": ("names: [a]\ntrain: [[x]]", r"data.yaml: train: expected text, .* got a list \['x'\]"),
    "zero byte": ('names: [a]\ntrain: "a\\0b"', "does not exist"),
    "alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: images/train", "expected 'names' as a list"),
}


@pytest.mark.parametrize("name", WRONG_YAML)
def test_a_wrong_description_is_refused(tmp_path, name):
    text, problem = WRONG_YAML[name]
    root = write(tmp_path, [""])
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError, match=problem) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_several_yaml_files_are_refused(tmp_path):
    root = write(tmp_path, [""])
    (root / "other.yaml").write_text((root / "data.yaml").read_text())
    assert read(root).annotations_file.name == "data.yaml"
    (root / "data.yaml").rename(root / "set.yml")
    with pytest.raises(DatasetError, match=r"several YAML files with class names: other\.yaml, set\.yml"):
        read(root)


def test_a_split_without_any_label_file_is_refused(tmp_path):
    root = write(tmp_path, [None, None])
    with pytest.raises(
        DatasetError, match=r"none of the 2 images of train has a label file; expected the first at .*a\.txt"
    ):
        read(root)


def test_missing_and_damaged_images_are_named(tmp_path):
    root = write(tmp_path, ["0 0.5 0.5 1 1"])
    (root / "images/train/a.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"a\.png is not an image"):
        read(root)
    (root / "data.yaml").write_text("train: list.txt\nnames: [cat]")
    (root / "list.txt").write_text("images/train/b.png")
    (root / "labels/train/b.txt").touch()
    with pytest.raises(DatasetError, match=r"no image .*b\.png"):
        read(root)
    (root / "images/train/a.png").unlink()
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]")
    with pytest.raises(DatasetError, match="has no image files"):
        read(root)


def outcome_of(root):
    """What was read, or None where a DatasetError refused it; any other exception fails the test."""
    try:
        return read(root)
    except DatasetError as caught:
        message = str(caught)
    assert "\n" not in message
    return None


BYTES = st.binary(max_size=40) | st.text("0123456789. -e+naif\n\t\x0b\x85_", max_size=60).map(str.encode)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=BYTES)
def test_any_label_file_is_read_or_refused(tmp_path, content):
    root = write(tmp_path, [""])
    (root / "labels/train/a.txt").write_bytes(content)
    outcome_of(root)


YAML_PIECES = (
    "names train path nc : [ ] { } , - & * ! | > ' \" # % @ ` ? << a 0 1 -1 ~ .. . / images/train !!python/object "
    "!!timestamp !!binary &x *x 1e999 \0 \ud800"
).split()
YAML_PIECES += ["\n", " ", "names: [a]\n", "train: images/train\n"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(YAML_PIECES), max_size=14), raw=st.none() | st.binary(max_size=30))
def test_any_description_is_read_or_refused(tmp_path, pieces, raw):
    root = write(tmp_path, [""])
    text = "".join(pieces).encode("utf-8", "surrogatepass")
    (root / "data.yaml").write_bytes(text if raw is None else raw + text)
    outcome_of(root)
