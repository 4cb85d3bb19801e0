import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtdetr.categories import VOC20, Categories, Category
from rtdetr.data import index_cache, open_dataset
from rtdetr.errors import DatasetError
from rtdetr.wording import counted
from tests.data.formats import voc_object

SIZE = "<size><width>60</width><height>40</height></size>"


def write(root, files, *, size=(60, 40), labels=None):
    """A dataset whose split "train" has these XML files, by the name of the image."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        Image.new("RGB", size).save(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    (root / "ImageSets/Main/train.txt").write_text("\n".join(files))
    if labels is not None:
        (root / "labels.txt").write_text(labels)
    return root


def read(root, **options):
    return open_dataset(root, split="train", **options)


def boxes(dataset, index=0):
    return dataset.target(index)["boxes_xyxy"].tolist()


def test_coordinates_start_at_1_and_children_may_have_any_order(tmp_path):
    whole = (
        "<object><bndbox><ymax>40</ymax><xmax>60</xmax><ymin>1</ymin><xmin>1</xmin></bndbox><name> dog </name></object>"
    )
    part = voc_object("cat", [2.5, 3.25, 10, 20])
    dataset = read(write(tmp_path, {"b": "", "a": SIZE + whole + part}))
    assert dataset.image_ids.tolist() == [0, 1]
    assert boxes(dataset) == [[0, 0, 60, 40], [2.5, 3.25, 12.5, 23.25]]
    assert dataset.target(0)["area"].tolist() == [2400, 200]
    assert dataset.target(1)["labels"].shape == (0,)
    assert dataset.load(1)[0].size == (60, 40)  # no size in the file: taken from the image
    assert dataset.images_dir == tmp_path / "JPEGImages"


@pytest.mark.parametrize("zero", [0, 0.4])
def test_a_coordinate_of_0_means_that_coordinates_start_at_0(tmp_path, zero):
    box = "<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>10</ymax></bndbox>"
    files = {name: f"{SIZE}<object><name>x</name>{box.format(x)}</object>" for name, x in (("a", 3), ("b", zero))}
    root = write(tmp_path, files)
    assert boxes(read(root)) == [[3, 5, 20, 10]]
    assert boxes(read(root), 1) == [[np.float32(zero), 5, 20, 10]]
    (root / "ImageSets/Main/train.txt").write_text("a")  # one rule for all splits
    assert boxes(read(root)) == [[3, 5, 20, 10]]
    (root / "Annotations/b.xml").unlink()
    assert boxes(read(root)) == [[2, 4, 20, 10]]


def test_negative_coordinates_are_no_evidence_for_the_first_pixel(tmp_path):
    assert boxes(read(write(tmp_path, {"a": SIZE + voc_object("x", [-3, 4, 20, 6])}))) == [[0, 4, 17, 10]]


def test_difficult_objects_are_ignored_like_crowds_and_parts_are_no_objects(tmp_path):
    person = voc_object("person", [1, 1, 9, 9], extra="<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>")
    hidden = voc_object("person", [1, 1, 5, 5], extra="<difficult>1</difficult>")
    plain = voc_object("person", [1, 1, 5, 5], extra="<difficult>0</difficult>")
    dataset = read(write(tmp_path, {"a": SIZE + person + hidden + plain}))
    assert dataset.target(0)["iscrowd"].tolist() == [False, True, False]


def test_classes(tmp_path):
    dog, cat = voc_object("dog", [1, 1, 5, 5]), voc_object("cat", [1, 1, 5, 5])
    root = write(tmp_path, {"a": SIZE + dog, "b": SIZE + cat})
    assert read(root).categories == VOC20  # all names are in VOC's list
    (root / "Annotations/b.xml").write_text(f"<annotation>{SIZE}{voc_object('zebra', [1, 1, 5, 5])}</annotation>")
    (root / "ImageSets/Main/train.txt").write_text("a")
    assert read(root).categories.names == ["dog", "zebra"]  # those of the other splits too
    (root / "labels.txt").write_text("zebra\n\ndog\ncow\n")
    assert read(root).categories.names == ["zebra", "dog", "cow"]
    assert read(root).categories.ids == [0, 1, 2]
    assert read(root).target(0)["labels"].tolist() == [1]
    (root / "labels.txt").write_text("zebra\ncow\n")
    with pytest.raises(DatasetError, match=r"a\.xml: class 'dog' does not exist: .*labels\.txt does not list it"):
        read(root)
    (root / "labels.txt").write_text("zebra\ncow\ncow")
    with pytest.raises(DatasetError, match="expected unique class names"):
        read(root)


def test_layouts(tmp_path):
    root = write(tmp_path, {"a": SIZE + voc_object("cat", [1, 1, 5, 5])})
    expected = boxes(read(root))
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trainval.txt")
    (root / "ImageSets/Main/trainval.txt").write_text("a  1\n")  # lists of one class have a mark
    assert boxes(read(root)) == expected
    with pytest.raises(DatasetError, match=r"has no list val\.txt, only trainval\.txt\. Give the list file itself"):
        open_dataset(root, split="val")
    assert boxes(open_dataset(root / "ImageSets/Main/trainval.txt", split="val")) == expected

    listed = tmp_path / "listed"
    listed.mkdir()
    root.joinpath("JPEGImages").rename(listed / "photos")
    root.joinpath("Annotations").rename(listed / "xml")
    (listed / "trainval.txt").write_text("photos/a.png xml/a.xml\n")
    assert boxes(read(listed)) == boxes(read(listed / "trainval.txt")) == expected
    (listed / "trainval.txt").write_text("photos/a.png xml/a.xml\nphotos/b.png\n")
    with pytest.raises(DatasetError, match=r"trainval\.txt: entry 2: expected 'image\.jpg annotation\.xml'"):
        read(listed)

    beside = tmp_path / "beside" / "train"
    beside.mkdir(parents=True)
    (listed / "photos/a.png").rename(beside / "a.png")
    (listed / "xml/a.xml").rename(beside / "a.xml")
    assert boxes(read(beside.parent)) == expected


def test_list_files_beside_each_other_are_one_dataset(tmp_path):
    box = "<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>10</ymax></bndbox>"
    files = {
        name: f"{SIZE}<object><name>{kind}</name>{box.format(x)}</object>"
        for name, kind, x in (("a", "zebra", 0), ("b", "ant", 3), ("c", "yak", 3))
    }
    root = write(tmp_path, files)
    (root / "train.txt").write_text("JPEGImages/a.png Annotations/a.xml\n")
    (root / "valid.txt").write_text("JPEGImages/b.png Annotations/b.xml\n")
    (root / "test.txt").write_text("JPEGImages/c.png Annotations/gone.xml\nonly.xml\n")  # faults of another split
    for folder in ("ImageSets/Main", "ImageSets"):
        for file in (root / folder).glob("*.txt"):
            file.unlink()
        (root / folder).rmdir()
    for dataset in (open_dataset(root, split="val"), open_dataset(root / "valid.txt", split="val")):
        assert boxes(dataset) == [[3, 5, 20, 10]]  # the zero in the training split shows how to count
        assert dataset.categories == read(root).categories
        assert dataset.categories.names == ["ant", "zebra"]
    (root / "train.txt").unlink()
    assert boxes(open_dataset(root, split="val")) == [[2, 4, 20, 10]]


def test_the_image_name_may_be_only_in_the_xml_file(tmp_path):
    root = write(tmp_path, {"a": SIZE + "<filename>other.png</filename>" + voc_object("cat", [1, 1, 5, 5])})
    assert read(root).path(0).name == "a.png"
    (root / "JPEGImages/a.png").rename(root / "JPEGImages/other.png")
    assert read(root).load(0)[0].size == (60, 40)
    (root / "JPEGImages/other.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of its 1 image is not in .*JPEGImages; the first is 'other\.png'"):
        read(root)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
WRONG = {
    "bomb": (BOMB, "the document type declaration"),
    "external": ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "the document type declaration"),
    "no xml": ("text", "expected a VOC annotation, but it is not valid XML"),
    "empty": ("", "expected a VOC annotation, but it is not valid XML"),
    "encoding": ('<?xml version="1.0" encoding="nonsense"?><a/>', "expected a VOC annotation, but it is not valid XML"),
    "no name": ("<a><object/></a>", "object 1 has no name"),
    "no box": ("<a><object><name>dog</name></object></a>", r"object 1 \('dog'\) has no bndbox"),
    "no corner": (
        "<a><object><name>dog</name><bndbox/></object></a>",
        r"'dog'\): xmin: expected a number, got 'nothing'",
    ),
    "text": (f"<a>{voc_object('dog', [1, 1, 5, 5]).replace('>2.0<', '>two<')}</a>", "expected a number, got 'two'"),
    "nan": (f"<a>{voc_object('dog', [1, 1, 5, 5]).replace('>2.0<', '>nan<')}</a>", "expected a number, got 'nan'"),
    "difficult": (f"<a>{voc_object('dog', [1, 1, 5, 5], extra='<difficult>?</difficult>')}</a>", r"'dog'\): difficult"),
    "size": ("<a><size><width>1.5</width><height>3</height></size></a>", "expected width and height in whole pixels"),
    "outside": (f"<a>{SIZE}{voc_object('dog', [70, 1, 5, 5])}</a>", r"object 1 \('dog'\) has bbox \[70, 1, 5, 5\]"),
    "turned": (f"<a>{SIZE}{voc_object('dog', [30, 1, -5, 5])}</a>", "expected width and height > 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named(tmp_path, name):
    text, problem = WRONG[name]
    root = write(tmp_path, {"a": ""}, labels="dog\ncat")
    (root / "Annotations/a.xml").write_text(text)
    with pytest.raises(DatasetError, match=problem) as caught:
        read(root)
    assert "a.xml" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_are_named(tmp_path):
    root = write(tmp_path, {"a": ""})
    with pytest.raises(DatasetError, match="1 annotation file without objects, so the classes are unknown"):
        read(root)
    (root / "ImageSets/Main/train.txt").write_text("a\nb")
    with pytest.raises(
        DatasetError, match=r"train\.txt: 1 of its 2 images has no XML file: .*b\.xml does not exist\. Put"
    ):
        read(root)
    (root / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(DatasetError, match=r"train\.txt: expected one image per line, but the file is empty"):
        read(root)


def outcome_of(root):
    """What was read, or None where a DatasetError refused it; any other exception fails the test."""
    try:
        return read(root)
    except DatasetError as caught:
        message = str(caught)
    assert "\n" not in message
    return None


PIECES = (
    "<annotation> </annotation> <object> </object> <name> </name> <bndbox> </bndbox> <xmin> </xmin> <ymin> </ymin> "
    "<xmax> </xmax> <ymax> </ymax> <size> </size> <width> </width> <height> </height> <filename> </filename> dog 1 5 "
    "<difficult> </difficult> -3 1e999 nan 0x1 &amp; &x; <![CDATA[ ]]> <?x?> <!-- --> <!DOCTYPE \0 \ud800"
).split()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=12),
    place=st.integers(0, 400),
    cut=st.integers(0, 20),
    raw=st.binary(max_size=4),
)
def test_any_annotation_file_is_read_or_refused(tmp_path, pieces, place, cut, raw):
    root = write(tmp_path, {"a": ""}, labels="dog")
    whole = f"<annotation>{SIZE}{voc_object('dog', [1, 1, 5, 5])}</annotation>".encode()
    place = min(place, len(whole))
    middle = "".join(pieces).encode("utf-8", "surrogatepass") + raw
    (root / "Annotations/a.xml").write_bytes(whole[:place] + middle + whole[place + cut :])
    outcome_of(root)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.binary(max_size=30), labels=st.binary(max_size=20))
def test_any_list_is_read_or_refused(tmp_path, lists, labels):
    root = write(tmp_path, {"a": SIZE + voc_object("dog", [1, 1, 5, 5])})
    (root / "ImageSets/Main/train.txt").write_bytes(lists)
    (root / "labels.txt").write_bytes(labels)
    outcome_of(root)


def test_a_list_with_the_backslashes_of_windows(tmp_path):
    root = tmp_path / "set"
    for folder in ("images", "notes"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(root / "images/a.png")
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>5</ymax>"
    (root / "notes/a.xml").write_text(
        f"<annotation><size><width>20</width><height>10</height></size><object><name>cat</name>"
        f"<bndbox>{corners}</bndbox></object></annotation>"
    )
    (root / "train.txt").write_text("images\\a.png notes\\a.xml\n")
    dataset = open_dataset(root, split="train")
    assert dataset.target(0)["boxes_xyxy"].tolist() == [[0, 0, 10, 5]]
    assert dataset.load(0)[0].size == (20, 10)


def model_of(*names):
    return Categories(Category(label, name) for label, name in enumerate(names))


def animals(root, *names, **options):
    """Images with one object each, of these classes."""
    return write(root, {f"x{i}": SIZE + voc_object(name, [i, 1, 5, 5]) for i, name in enumerate(names)}, **options)


def test_a_model_needs_only_the_voc_classes_that_occur(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "_MIN_ROWS", 0)
    root = animals(tmp_path / "set", "dog", "cat")
    for _ in range(2):  # the second time from the cache
        dataset = read(root)
        assert dataset.categories == VOC20
        assert set(dataset.annotations.implied) == set(VOC20.names) - {"cat", "dog"}
        own = read(root, categories=model_of("zebra", "cat", "dog"))
        assert own.categories.names == ["zebra", "cat", "dog"] and own.categories.ids == [20, 7, 11]
        assert [own.target(i)["labels"].tolist() for i in range(2)] == [[2], [1]]
        assert boxes(own) == boxes(dataset)
    assert dataset.with_categories(VOC20).target(0)["labels"].tolist() == [11]
    for names in (["dog"], ["dog", "zebra"]):
        with pytest.raises(DatasetError) as caught:
            read(root, categories=model_of(*names))
        assert f"expected the {counted(len(names), 'class')} of the model, got 20, of which 2 occur;" in str(
            caught.value
        )
        assert " only the file has 'cat'. " in str(caught.value)
        assert "; a classes.txt in the folder of the dataset replaces the class list of Pascal VOC" in str(caught.value)
    (root / "ImageSets/Main/train.txt").write_text("x0")  # the cat occurs in another split
    assert read(root, categories=model_of("dog")).target(0)["labels"].tolist() == [0]
    assert caplog.messages[-1].endswith("lists 1 class without objects that the model does not have; omitted: 'cat'")


def test_a_class_list_file_is_used_completely(tmp_path, caplog):
    root = animals(tmp_path, "dog", "cat", labels="cat\ndog\ncow\n")
    assert read(root).annotations.implied == ()
    assert read(root, categories=model_of("cat", "dog")).target(0)["labels"].tolist() == [1]
    assert caplog.messages[-1].endswith("the model does not have; omitted: 'cow'")
    with pytest.raises(DatasetError, match=r"got 3; only the file has 'cow', 'dog'\. .* the same names\. If"):
        read(root, categories=model_of("cat"))
    (root / "labels.txt").write_text("cat\ndog\n")
    assert read(root, categories=Categories.numbered(2)).target(0)["labels"].tolist() == [1]
    (root / "labels.txt").unlink()
    with pytest.raises(DatasetError, match=r"got 20, of which 2 occur; only the model has 'class 0'.*classes\.txt"):
        read(root, categories=Categories.numbered(2))


def test_merged_datasets_have_the_classes_that_any_of_them_has(tmp_path, caplog):
    roots = animals(tmp_path / "a", "dog"), animals(tmp_path / "b", "cow", labels="cow\nsheep\n")
    merged = read(list(roots))
    assert merged.categories.names == VOC20.names
    assert set(merged.annotations.implied) == set(VOC20.names) - {"dog", "cow", "sheep"}
    assert merged.with_categories(model_of("sheep", "cow", "dog")).target(1)["labels"].tolist() == [1]
    assert merged.with_categories(model_of("cow", "dog")).target(1)["labels"].tolist() == [0]
    assert caplog.messages[-1].endswith("the model does not have; omitted: 'sheep'")
