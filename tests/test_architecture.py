"""Read all imports in src/rtdetr, including those in functions, and fail on any that the table does not allow."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rtdetr
from rtdetr.errors import OPTIONAL_PACKAGES

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "rtdetr"

# A room is a folder or a file directly under src/rtdetr.
LEVEL_0 = set("errors config categories zoo detections images preprocessing drawing files fonts".split())
LEVEL_0 |= {
    "_version",
    "class_lists",
    "expected",
    "exported_files",
    "html",
    "machine",
    "native",
    "plot_style",
    "process_lock",
    "published",
    "run_files",
    "strict",
    "text_files",
    "wording",
    "yaml_files",
    "yaml_loaders",
}
LEVEL_1 = {"boxes", "devices", "random_state", "structures", "torch_resize"}
LEVEL_2 = {"models", "losses", "data"}
ALLOWED = {
    **dict.fromkeys(LEVEL_0, LEVEL_0),
    **dict.fromkeys(LEVEL_1, LEVEL_0),
    **dict.fromkeys(LEVEL_2, LEVEL_0 | LEVEL_1),
    "weights": LEVEL_0 | LEVEL_1 | {"models"},
    "evaluation": LEVEL_0 | LEVEL_1 | {"data"},
    "recipes": LEVEL_0 | LEVEL_1 | LEVEL_2 | {"weights", "evaluation"},
    "reports": LEVEL_0 | LEVEL_1 | {"data", "evaluation"},
    "training": LEVEL_0 | LEVEL_1 | LEVEL_2 | {"weights", "evaluation", "recipes", "reports"},
    "runtimes": LEVEL_0,
    "benchmark": LEVEL_0 | {"runtimes"},
    "hf": LEVEL_0 | LEVEL_1 | LEVEL_2 | {"weights", "evaluation", "recipes", "training", "runtimes"},
    "export": LEVEL_0 | LEVEL_1 | {"models", "weights", "data", "evaluation", "runtimes"},
}
ALLOWED["api"] = set(ALLOWED)
ALLOWED["comparison"] = LEVEL_0 | LEVEL_1 | {"recipes", "reports", "runtimes", "api"}
ALLOWED["cli"] = set(ALLOWED)
# `import rtdetr` runs __init__ first, and that imports only `_version` and `errors` on its own account
ALLOWED["__init__"] = set(ALLOWED) - {"cli"}
ALLOWED["__main__"] = {"cli"}
# the runtimes that need torch, and the one that needs the networks
ALLOWED_FILES = {
    "runtimes/torch_detector.py": LEVEL_0 | {"devices", "models", "torch_resize", "weights"},
    "runtimes/exported_program_detector.py": LEVEL_0 | {"devices"},
}
CLI_AT_THE_TOP = {"errors", "exported_files", "wording"}  # `rtdetr --help` imports every verb

# third-party packages: rooms where they may be imported; level 0 has those of the base install that draw nothing
ANYWHERE = set(ALLOWED)
ABOVE_0 = set(ALLOWED) - LEVEL_0
TORCH = LEVEL_1 | LEVEL_2 | {"weights", "evaluation", "recipes", "reports", "training", "export", "hf"}
TORCH |= {"runtimes/torch_detector.py", "runtimes/exported_program_detector.py", "benchmark/profile_torch.py"}
THIRD_PARTY = {
    "numpy": ANYWHERE,
    "PIL": ANYWHERE,
    "pillow_heif": {"images"},
    "pillow_jxl": {"images"},
    "tifffile": {"images"},
    "pydantic": ANYWHERE,
    "yaml": ANYWHERE,
    "rich": ABOVE_0,
    "typer": {"cli"},
    "filelock": {"weights", "training"},
    "torch": TORCH,
    "torchvision": TORCH,
    "jaxtyping": TORCH,
    "scipy": {"losses", "models", "export"},
    "hotcoco": {"evaluation"},
    "timm": {"models"},
    "safetensors": {"weights", "hf"},
    "matplotlib": {"reports", "evaluation", "fonts/figure.py", "plot_style"},
    "transformers": {"hf"},
    "accelerate": {"hf"},
    "huggingface_hub": {"hf"},
    "onnx": {"export", "benchmark/profile_onnx.py"},
    "onnxruntime": {"export", "runtimes/onnx_detector.py", "benchmark/profile_onnx.py"},
    "openvino": {
        *("export", "runtimes/openvino_detector.py", "runtimes/openvino_core.py", "benchmark/profile_openvino.py"),
    },
    "tensorrt": {"export", "runtimes/tensorrt_detector.py"},
    "nncf": {"export"},
    "cuda": {"runtimes/cuda_memory.py"},
}
DISTRIBUTIONS = {  # where the name to install is another
    "PIL": "pillow",
    "pillow_heif": "pillow-heif",
    "pillow_jxl": "pillow-jxl-plugin",
    "yaml": "pyyaml",
    "cuda": "cuda-bindings",
}


def violations(file: str, source: str) -> list[str]:
    """Return one line for each import in `source` that the file `file`, a path below src/rtdetr, must not contain."""
    room = Path(file).parts[0].removesuffix(".py")
    allowed = ALLOWED_FILES.get(file, ALLOWED.get(room, set())) | {room}
    found = []
    for node, deferred in _walk(ast.parse(source)):
        for module in _imported(node):
            top, _, rest = module.partition(".")
            target = rest.partition(".")[0]
            if top in sys.stdlib_module_names:
                continue
            if top == "rtdetr":
                ok = target in allowed
                if room == "cli" and file != "cli/main.py" and not deferred:
                    ok = target in CLI_AT_THE_TOP | {"cli"}
            else:
                ok = bool({room, file} & THIRD_PARTY.get(top, set()))
            if not ok:
                found.append(f"{file}:{node.lineno}: imports {module}")
    return found


def _walk(node: ast.AST, deferred: bool = False) -> list[tuple[ast.AST, bool]]:
    """Every node below `node`, and whether it is inside a function or a block that only type checkers read."""
    found = []
    for child in ast.iter_child_nodes(node):
        inner = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = inner or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        found += [(child, deferred), *_walk(child, inner)]
    return found


def _imported(node: ast.AST) -> list[str]:
    """Absolute names of what an import statement imports, "rtdetr.ROOM..." for our own modules."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        if node.level or node.module == "rtdetr":  # a relative import comes out as an unknown room
            return [f"rtdetr.{alias.name}" for alias in node.names]
        return [node.module or ""]
    return []


def test_every_import_follows_the_directions() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    found = [v for f in files for v in violations(f.relative_to(PACKAGE).as_posix(), f.read_text())]
    assert not found, "\n" + "\n".join(found)


def circles(sources: dict[str, str]) -> set[tuple[str, ...]]:
    """The groups of modules of one room that import each other, directly or by way of others.

    Args:
        sources: text by the module's name below `rtdetr`; imports in functions and for type checkers count as well.
    """
    arrows = {name: _imported_modules(name, text, set(sources)) for name, text in sources.items()}
    reached: dict[str, set[str]] = {name: set() for name in arrows}
    for name, found in reached.items():
        waiting = [name]
        while waiting:
            new = arrows[waiting.pop()] - found
            found |= new
            waiting += new
    return {tuple(sorted({other for other in found if name in reached[other]})) for name, found in reached.items()} - {
        ()
    }


def _imported_modules(name: str, text: str, modules: set[str]) -> set[str]:
    """Modules of the same room that a module imports; a name that is no module is its package's."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            longer = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {x if x.removeprefix("rtdetr.") in modules else str(node.module) for x in longer.values()}
    own = {module.removeprefix("rtdetr.") for module in found if module.startswith("rtdetr.")}
    return {module for module in own & modules if module.split(".")[0] == name.split(".")[0]}


def test_no_room_has_a_circle() -> None:
    files = {file.relative_to(PACKAGE).with_suffix(""): file for file in PACKAGE.rglob("*.py")}
    names = {file: ".".join(p.parts[:-1] if p.name == "__init__" else p.parts) for p, file in files.items()}
    found = circles({name: file.read_text() for file, name in names.items() if name})
    assert found == set()


@pytest.mark.parametrize(
    "second",
    [
        "from rtdetr.data.a import x",
        "import rtdetr.data.a",
        "def f():\n    from rtdetr.data import a",
        "if TYPE_CHECKING:\n    from rtdetr.data.a import X",
        "from rtdetr.data.c import y",
        "from rtdetr.data import x",
    ],
)
def test_an_added_circle_is_found(second: str) -> None:
    rest = {"data.c": "from rtdetr.data.a import x", "data": "from rtdetr.data.a import x"}
    (found,) = circles({"data.a": "from rtdetr.data.b import y", "data.b": second, **rest})
    assert {"data.a", "data.b"} <= set(found)


def test_other_rooms_and_outer_packages_make_no_circle() -> None:
    sources = {"data.a": "from rtdetr.models.b import y\nimport numpy", "models.b": "from rtdetr.data.a import x"}
    assert circles({**sources, "data": "from rtdetr.data.a import x", "data.c": "import os"}) == set()


def test_images_are_opened_in_one_place() -> None:
    opening = [
        file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py") if "Image.open(" in file.read_text()
    ]
    assert opening == ["images/decode.py"]


def test_ctypes_is_used_in_one_place() -> None:
    using = [file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py") if "ctypes" in file.read_text()]
    assert using == ["native.py"]


def test_every_room_is_in_the_table() -> None:
    rooms = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/rtdetr.py", "from rtdetr.losses import build_criterion"),
        ("models/rtdetr.py", "def f():\n    import rtdetr.data.coco"),
        ("losses/matcher.py", "from rtdetr import models"),
        ("losses/matcher.py", "from rtdetr import build_model"),
        ("losses/matcher.py", "import rtdetr"),
        ("losses/matcher.py", "from ..models import rtdetr"),
        ("zoo.py", "def f():\n    import torch"),
        ("zoo.py", "from rtdetr.boxes import box_iou_giou"),
        ("detections.py", "import rich"),
        ("evaluation/coco.py", "from rtdetr.models import build_model"),
        ("runtimes/load.py", "def f():\n    import torch"),
        ("runtimes/load.py", "from rtdetr.weights import load_model"),
        ("runtimes/torch_detector.py", "from rtdetr.training import train"),
        ("training/train.py", "import scipy.optimize"),
        ("training/train.py", "import transformers"),
        ("cli/predict.py", "from rtdetr.runtimes import load"),
        ("cli/predict.py", "import numpy\nfrom rtdetr import runtimes"),
        ("elsewhere.py", "from rtdetr import zoo"),
    ],
)
def test_an_added_import_is_found(file: str, source: str) -> None:
    assert len(violations(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("models/rtdetr.py", "import torch.nn as nn\nfrom rtdetr.models.layers import ConvNorm\nimport os.path"),
        (
            "training/train.py",
            "from rtdetr import zoo\nfrom rtdetr._version import __version__\nimport rtdetr.evaluation",
        ),
        ("runtimes/torch_detector.py", "import torch\nfrom rtdetr.weights import load_model"),
        ("cli/predict.py", "import typer\ndef predict():\n    from rtdetr.runtimes import load"),
    ],
)
def test_allowed_imports_pass(file: str, source: str) -> None:
    assert violations(file, source) == []


# files of this library's own, and of the system: no stranger writes them
OWN_TEXT = {"html", "machine", "benchmark/memory", "benchmark/profile_onnx", "weights/download"}
OWN_TEXT |= {"reports/environment", "reports/metrics", "reports/page", "reports/sinks"}


def test_text_files_are_read_in_one_place() -> None:
    """`read_text` and `decode_text` of text_files.py know byte-order marks and UTF-16; nothing else may decode."""
    forbidden = re.compile(r"\.read_text\(|loads\([^)]*read_bytes|\.read_bytes\(\)\.decode|open\([^)]*encoding=")
    files = {file: file.relative_to(PACKAGE).with_suffix("").as_posix() for file in PACKAGE.rglob("*.py")}
    found = {name for file, name in files.items() if forbidden.search(file.read_text())}
    assert found - {"evaluation/report"} == OWN_TEXT  # which only writes
    assert forbidden.search("json.loads(file.read_bytes())") and forbidden.search("file.read_text(encoding='utf-8')")


def test_every_package_is_declared() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    base, extras = project["dependencies"], project["optional-dependencies"]
    torch = extras["torch"]
    of_extras = [requirement for extra in extras if extra not in ("all", "dev") for requirement in extras[extra]]
    declared = {requirement.partition(">")[0] for requirement in (*base, *of_extras)}
    assert {DISTRIBUTIONS.get(name, name) for name in THIRD_PARTY} <= declared
    assert {name for name, extra in OPTIONAL_PACKAGES.items() if extra == "torch"} == {
        requirement.partition(">")[0] for requirement in torch
    }


def test_lazy_names_match_what_type_checkers_see() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    modules = dict.fromkeys(rtdetr._MODULES, "rtdetr")
    assert seen == modules | {name: f"rtdetr.{home}" for name, home in rtdetr._HOMES.items()}


def test_the_page_names_real_files_and_functions() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+\.py`?[^|]*) \|", (REPOSITORY / "docs/architecture.md").read_text(), re.M)
    assert len(rows) > 25
    for names, files in rows:
        sources = [PACKAGE / file for file in re.findall(r"`([a-z0-9_/]+\.py)`", files)]
        assert sources and all(source.is_file() for source in sources), files
        text = "\n".join(source.read_text() for source in sources)
        for name in re.findall(r"`(?:rtdetr\.)?([A-Za-z_]+)`", names):
            assert re.search(rf"\b(def|class) {name}\b", text), f"{name} in {files}"


def test_the_drawing_of_the_rooms_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/draw_rooms.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
