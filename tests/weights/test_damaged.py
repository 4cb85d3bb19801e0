"""Damaged files of every format give one WeightsError, and never another error, a hang or wrong weights."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rtdetr.errors import WeightsError
from rtdetr.models import RTDETR
from rtdetr.weights import load_model, save_huggingface, save_weights
from tests.weights.small import small


@pytest.fixture(scope="module")
def model() -> RTDETR:
    narrow = {"width": 16, "feedforward": 16}
    return small(num_classes=2, encoder={"num_blocks": 3, **narrow}, decoder={"num_layers": 1, **narrow})


@pytest.fixture(scope="module")
def files(model: RTDETR, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One whole file of each format; the old PyTorch format is read too."""
    folder = tmp_path_factory.mktemp("whole")
    save_weights(model, folder / "new.pth")
    torch.save({"model": model.state_dict()}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_huggingface(model, folder)
    (folder / "model.safetensors").rename(folder / "described.safetensors")
    return {path.name: path for path in folder.iterdir()}


def loads(path: Path) -> RTDETR | None:
    """The model of a file; None where it is refused, with a message on one line that names the file."""
    try:
        return load_model(path)[0]
    except WeightsError as error:
        message = str(error)
    assert str(path) in message and "\n" not in message and len(message) < 1000
    return None


def cuts(size: int) -> Iterator[int]:
    yield from (0, 1, 2, 7, 8, 9, 100, size // 2, size - 1000, size - 30, size - 1)
    yield from random.sample(range(size), 12)


def _cut(file: Path, target: Path, size: int) -> Path:
    target.write_bytes(file.read_bytes()[:size])
    return target


def positions(size: int, count: int) -> Iterator[int]:
    """Most of the places where a bit flips: the ends of a file hold its structure."""
    edge = min(size, 3000)
    for _ in range(count):
        yield random.choice((random.randrange(edge), size - 1 - random.randrange(edge), random.randrange(size)))


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "described.safetensors"])
def test_truncated(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    content = files[name].read_bytes()
    for cut in cuts(len(content)):
        (tmp_path / name).write_bytes(content[:cut])
        assert loads(tmp_path / name) is None, cut
    with pytest.raises(WeightsError, match=rf"is truncated or damaged, .*\({name}: .* bytes\)\. Compare the size"):
        load_model(_cut(files[name], tmp_path / name, 100))
    if name == "new.pth":
        with pytest.raises(WeightsError, match="Reason: its end is missing"):
            load_model(_cut(files[name], tmp_path / name, len(content) - 1000))


@pytest.mark.parametrize("name", ["new.pth", pytest.param("old.pth", marks=pytest.mark.slow), "described.safetensors"])
def test_flipped_bits(name: str, files: dict[str, Path], model: RTDETR, tmp_path: Path) -> None:
    content = files[name].read_bytes()
    assert loads(files[name]) is not None
    for position in positions(len(content), 25):
        flipped = bytearray(content)
        flipped[position] ^= 1 << random.randrange(8)
        (tmp_path / name).write_bytes(flipped)
        loaded = loads(tmp_path / name)
        if loaded is not None and name == "new.pth":  # its checksums miss nothing: the bit was padding
            for key, value in model.state_dict().items():
                assert torch.equal(loaded.state_dict()[key], value), (position, key)


def test_flipped_bits_in_a_config(model: RTDETR, tmp_path: Path) -> None:
    save_huggingface(model, tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")  # without our description
    for name in ("config.json", "preprocessor_config.json"):
        content = (tmp_path / name).read_bytes()
        for position in random.sample(range(len(content)), 20):
            flipped = bytearray(content)
            flipped[position] ^= 1 << random.randrange(8)
            (tmp_path / name).write_bytes(flipped)
            loads(tmp_path)
        (tmp_path / name).write_bytes(content)
    assert loads(tmp_path) is not None


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.bin", "model.safetensors.index.json"])
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes(name: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert loads(tmp_path / name) is None


def test_a_file_of_another_kind_is_not_said_to_hold_code(tmp_path: Path) -> None:
    (tmp_path / "photo.pth").write_bytes(b"\xff\xd8\xff\xe0 a photo, or anything else")
    with pytest.raises(WeightsError, match=r"or not a PyTorch checkpoint \(photo.pth: .* bytes\)"):
        load_model(tmp_path / "photo.pth")
