"""Finding the image files of a folder, for every command."""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from rtdetr.data import open_dataset
from rtdetr.errors import DatasetError, InputError
from rtdetr.images import load_image, open_image
from rtdetr.images.files import SUFFIXES, find_images, images_below, is_image_name, list_images


@pytest.fixture
def folder(tmp_path):
    """Images of two kinds, one below, and what is passed over."""
    root = tmp_path / "photos"
    for name in ("b.PNG", "a.jfif", "sub/c.tga", "._a.jpg", ".cache/d.png", "__MACOSX/a.jpg", "notes.txt", "more.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/e.mpo").write_bytes(b"x")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "sub/loop").symlink_to(root)
    return root


def names(paths, root):
    return [os.path.relpath(path, root) for path in paths]


def test_a_folder_is_searched_with_its_subfolders(folder):
    found = list_images(folder)
    assert names(found.paths, folder) == ["a.jfif", "b.PNG", "linked/e.mpo", "sub/c.tga"]
    assert names(found.broken_links, folder) == ["gone.jpg"]
    assert (found.hidden, dict(found.others), found.below) == (3, {".txt": 2}, 0)
    assert found.skipped() == (
        f"1 broken link (the first is {folder / 'gone.jpg'}), 3 hidden files, 2 files of other types (.txt)"
    )
    assert names(images_below(folder), folder) == ["a.jfif", "b.PNG", "gone.jpg", "linked/e.mpo", "sub/c.tga"]


def test_images_in_subfolders_are_counted_if_not_searched(folder, caplog):
    caplog.set_level("INFO")
    assert names(find_images([str(folder)]), folder) == ["a.jfif", "b.PNG"]
    assert caplog.messages[-1].startswith("skipped: ") and caplog.messages[-1].endswith(", 2 images in subfolders")
    assert list_images(folder, recursive=False).below == 2
    paths = find_images([str(folder)], recursive=True)
    assert names(paths, folder) == ["a.jfif", "b.PNG", "linked/e.mpo", "sub/c.tga"]
    assert names(find_images([f"{folder}/**"]), folder) == ["a.jfif", "b.PNG", "linked/e.mpo", "sub/c.tga"]


def test_a_folder_with_images_only_in_subfolders_says_so(tmp_path):
    (tmp_path / "top/sub").mkdir(parents=True)
    (tmp_path / "top/sub/a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no image in .*top itself, but 1 in its subfolders: add --recursive"):
        find_images([str(tmp_path / "top")])
    (tmp_path / "top/sub/a.png").unlink()
    with pytest.raises(InputError, match=r"no image found in .*top: expected files ending in \.avif"):
        find_images([str(tmp_path / "top")])


def test_each_file_once_and_missing_ones_kept(folder, monkeypatch):
    monkeypatch.chdir(folder)
    paths = find_images(["b.PNG", "./b.PNG", "missing.jpg", "*.PNG", "gone.jpg"])
    assert paths == [Path("b.PNG"), Path("missing.jpg"), Path("gone.jpg")]


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", "URLs are not supported: decode the text after the comma"),
        ("https://host/a.jpg", "URLs are not supported: download https://host/a.jpg and pass the file"),
        ("s3://bucket/a.png", "URLs are not supported: download s3://bucket/a.png and pass the file"),
        ("rtsp://host/1", "rtsp://host/1 is a camera or video, and only images are supported"),
        ("file:///data/a%20b.jpg", "URLs are not supported: pass only the path, /data/a b.jpg"),
    ],
)
def test_urls_are_refused(source, advice):
    with pytest.raises(InputError, match=re.escape(advice)):
        find_images([source])
    for path in (source, Path(source)):
        with pytest.raises(InputError, match=re.escape(advice)):
            open_image(path)
        with pytest.raises(DatasetError, match=re.escape(advice)):
            open_dataset(path, split="train")


def test_videos_are_refused(tmp_path):
    (tmp_path / "clip.MP4").write_bytes(b"x")
    for source in ("clip.MP4", str(tmp_path / "clip.MP4")):
        with pytest.raises(
            InputError, match=r"clip\.MP4 is a video, and only images are supported: extract its frames"
        ):
            find_images([source])


def test_streams_and_cameras_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # to read it would wait for ever
    kinds = {"-": "stream", "/dev/null": "stream", "pipe": "stream", "0": "camera", "12": "camera"}
    for source, kind in kinds.items():
        said = f"no image file {source}; a {kind} is not supported: save "
        with pytest.raises(InputError, match=said):
            find_images([source])
        with pytest.raises(InputError, match=said):
            load_image(source)
        with pytest.raises(InputError, match=said):
            load_image(Path(source))
    for name in ("0", "-"):
        Image.new("RGB", (4, 3)).save(tmp_path / name, format="PNG")
        assert find_images([name]) == [Path(name)] and load_image(name).shape == (3, 4, 3)


def test_every_suffix_in_any_case():
    assert {".mpo", ".jpe", ".jfif", ".tga", ".npy", ".heic", ".avif", ".jxl"} <= SUFFIXES
    assert all(is_image_name(f"a{suffix.upper()}") for suffix in SUFFIXES)
    assert not is_image_name("a.txt")


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".tga", ".mpo"])
def test_datasets_take_the_same_suffixes(tmp_path, suffix):
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)
    format = {".tga": "TGA", ".mpo": "MPO"}.get(suffix, "JPEG")
    Image.new("RGB", (20, 10)).save(tmp_path / f"images/train/a{suffix}", format=format)
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images/train\n")
    dataset = open_dataset(tmp_path, split="train")
    assert dataset.load(0)[1]["boxes_xyxy"].tolist() == [[5, 2.5, 15, 7.5]]


def test_a_broken_link_in_a_dataset_is_reported_before_the_first_step(tmp_path):
    (tmp_path / "images/train").mkdir(parents=True)
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "images/train/a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: [a]\ntrain: images/train\n")
    with pytest.raises(DatasetError, match=r"a\.png is a link to .*gone\.png, which does not exist"):
        open_dataset(tmp_path, split="train")
    document = {"images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 4}], "annotations": []}
    document["categories"] = [{"id": 1, "name": "a"}]
    (tmp_path / "train.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match="1 of its 1 image is not in"):
        open_dataset(tmp_path / "train.json", split="train", images=tmp_path / "images/train")
