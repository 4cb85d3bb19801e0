"""What is known about the machine without PyTorch."""

import subprocess
from pathlib import Path

import pytest

from rtdetr import machine

CPUINFO = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz: fast\nflags\t\t: fpu avx2 avx512f amx_bf16\n\nprocessor\t: 1\n"


def test_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: CPUINFO)
    assert machine.processor() == "A CPU @ 2 GHz: fast"
    assert machine.cpu_features() == ["AVX2", "AVX-512", "AMX"]
    assert machine.has_amx()


def test_a_system_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert machine.processor() and machine.cpu_features() == [] and not machine.has_amx()


def test_versions() -> None:
    found = machine.package_versions(["numpy", "no-such-package"])
    assert found["numpy"] and found["no-such-package"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (
            "NVIDIA H200, 143771, 570.1\nGB10, [N/A], 580.2\n",
            [
                {"name": "NVIDIA H200", "memory_gib": 140.4, "driver": "570.1"},
                {"name": "GB10", "memory_gib": None, "driver": "580.2"},
            ],
        ),
    ],
)
def test_gpus(monkeypatch: pytest.MonkeyPatch, text: str, expected: list[dict[str, object]]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=text))
    assert machine.nvidia_gpus() == expected


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.nvidia_gpus() == []
