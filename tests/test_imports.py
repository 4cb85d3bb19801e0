"""What `import rtdetr` and `rtdetr --help` load, and what a base install without torch says; in fresh processes."""

import inspect
import subprocess
import sys

import pytest

from rtdetr.errors import EXTRAS

HEAVY = ("torch", "torchvision", "transformers", "matplotlib", "scipy", "hotcoco", "tensorboard")


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def without_torch(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where no package of the extra `torch` can be imported."""
    block = (
        "import sys; from rtdetr.errors import OPTIONAL_PACKAGES; sys.modules.update(dict.fromkeys(OPTIONAL_PACKAGES))"
    )
    return python(f"{block}\n{code}")


def command(*arguments: str) -> str:
    """Code that runs `rtdetr ARGUMENTS` in its process."""
    return f"import sys; sys.argv = ['rtdetr', *{arguments}]; from rtdetr.cli.main import main; main()"


@pytest.mark.parametrize(
    "code",
    [
        "import rtdetr; rtdetr.list_models(); rtdetr.Detections; rtdetr.COCO80; rtdetr.zoo.recipe('rtdetrv2_r18vd')",
        command("--help"),
        command("train", "--help"),
        command("models"),
    ],
    ids=["import", "help", "help of a verb", "models"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    report = f"import atexit, sys; atexit.register(lambda: print('LOADED', *{{*sys.modules}} & {{*{HEAVY}}}))\n"
    result = python(report + code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "LOADED"


def test_help_lists_every_verb() -> None:
    from rtdetr.cli.main import COMMANDS

    lines = python(command("--help")).stdout.splitlines()
    for verb in COMMANDS:
        assert any(line.split()[:1] == [verb] and len(line.split()) > 2 for line in lines), verb


def test_every_lazy_name_exists() -> None:
    import rtdetr

    for name in dir(rtdetr):
        getattr(rtdetr, name)
    assert inspect.isfunction(rtdetr.train) and inspect.ismodule(rtdetr.losses)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import rtdetr

    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        rtdetr.lode  # noqa: B018


@pytest.mark.parametrize("name", ["build_model", "train", "evaluate", "losses"])
def test_a_base_install_names_the_extra(name: str) -> None:
    result = without_torch(f"import rtdetr; rtdetr.{name}")
    assert result.stderr.splitlines()[-1].startswith("rtdetr.errors.MissingDependencyError: ")
    assert result.stderr.rstrip().endswith(f"pip install {EXTRAS['torch']}")


def test_a_base_install_detects_nothing_but_says_why() -> None:
    result = without_torch("import rtdetr; rtdetr.load('rtdetrv2_r18vd')")
    assert result.stderr.rstrip().endswith(f"pip install {EXTRAS['torch']}")


def test_the_command_line_of_a_base_install_prints_one_line() -> None:
    result = without_torch(command("weights", "convert", "a.pth", "b.pth"))
    assert result.returncode == 2
    assert result.stderr.startswith("MissingDependencyError: ")
    assert result.stderr.count("\n") == 1
    assert f"(extra 'torch' of rtdetr), which is not installed. Run: pip install {EXTRAS['torch']}" in result.stderr


def test_the_base_install_lists_models() -> None:
    result = without_torch(command("models"))
    assert result.returncode == 0
    assert "rtdetrv2_r50vd" in result.stdout
