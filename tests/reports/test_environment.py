"""The record of the machine that a run writes."""

import json
import mmap

import pytest
import torch

from rtdetr import __version__
from rtdetr.errors import TrainingError
from rtdetr.reports.environment import (
    describe_environment,
    peak_cuda_memory_gib,
    processes_of,
    resident_memory_gib,
    write_environment,
)

CPU = torch.device("cpu")


def test_contents_of_the_environment():
    found = describe_environment(CPU, workers=3)
    assert found["versions"]["rtdetr"] == __version__
    assert found["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert (found["threads"], found["loader_workers"], found["device"]) == (torch.get_num_threads(), 3, {"type": "cpu"})
    assert found["cores"] >= 1
    assert found["processor"]
    assert json.loads(json.dumps(found)) == found


def test_a_resumed_run_keeps_what_was_there_before(tmp_path):
    for workers in (1, 2, 3):
        write_environment(tmp_path, device=CPU, workers=workers)
    content = json.loads((tmp_path / "environment.json").read_text())
    assert content["loader_workers"] == 3
    assert [one["loader_workers"] for one in content["earlier"]] == [1, 2]
    assert all("earlier" not in one for one in content["earlier"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_record_that_an_editor_saved_in_another_encoding_is_still_read(tmp_path, encoding, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    file = write_environment(tmp_path, device=CPU, workers=1)
    file.write_text(file.read_text(), encoding=encoding)
    assert processes_of(tmp_path) == 2
    write_environment(tmp_path, device=CPU, workers=2)
    assert [one["loader_workers"] for one in json.loads(file.read_text())["earlier"]] == [1]


def test_number_of_processes_of_a_run(tmp_path, monkeypatch):
    assert processes_of(tmp_path) is None
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    write_environment(tmp_path, device=CPU, workers=0)
    assert processes_of(tmp_path) == processes_of(tmp_path / "last.pth") == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # on two machines
    write_environment(tmp_path, device=CPU, workers=0)
    assert processes_of(tmp_path) is None
    for text in ("", "[1]", '{"processes": "x", "processes_here": "x"}'):
        (tmp_path / "environment.json").write_text(text)
        assert processes_of(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[1, 2]", "{half", "null"])
def test_a_damaged_file_is_replaced(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    write_environment(tmp_path, device=CPU, workers=1)
    assert "earlier" not in json.loads((tmp_path / "environment.json").read_text())


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot write .*environment\.json"):
        write_environment(tmp_path / "file", device=CPU, workers=1)


def test_memory():
    before = resident_memory_gib()
    if before is None:
        pytest.skip("this system does not tell")
    with mmap.mmap(-1, 512 * 2**20) as pages:  # fresh pages: an allocator may give ones freed by an earlier test
        pages[:: mmap.PAGESIZE] = bytes(len(pages) // mmap.PAGESIZE)
        grown = resident_memory_gib()
    assert grown is not None
    assert 0.3 < grown - before < 0.8
    assert peak_cuda_memory_gib(CPU) is None
    assert peak_cuda_memory_gib(None) is None
