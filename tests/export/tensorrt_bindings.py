"""Prints what `typings/tensorrt` promises and the real Python interface of TensorRT has not, as JSON.

    LD_LIBRARY_PATH=FOLDER_OF_STAND_INS python tensorrt_bindings.py FOLDER_OF_BINDINGS STUB.pyi

The interface is a package of its own, whose libraries need no GPU to be imported as long as nothing is called.
"""

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    sys.path.insert(0, f"{sys.argv[1]}/tensorrt_bindings")
    real = importlib.import_module("tensorrt")  # the compiled module, without the package that loads the libraries
    stub = ast.parse(Path(sys.argv[2]).read_text())
    package = (Path(sys.argv[1]) / "tensorrt_bindings/__init__.py").read_text()
    missing = [name for node in stub.body for name in missing_of(node, real, package)]
    print(json.dumps({"missing": missing, "dims": tuple(real.Dims((1, 3, 64)))}))


def missing_of(node: ast.stmt, real: ModuleType, package: str) -> list[str]:
    """Names of one statement of the stub that are not in the module, nor in the package's own Python."""
    if isinstance(node, ast.ClassDef):
        owner = getattr(real, node.name, None)
        return [node.name] if owner is None else members_missing(node, owner)
    if isinstance(node, ast.FunctionDef):
        names = ", ".join(one.arg for one in node.args.args)
        return [] if f"def {node.name}({names}):" in package else [node.name]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [] if f"{node.target.id} =" in package else [node.target.id]
    return []


def members_missing(node: ast.ClassDef, owner: Any) -> list[str]:
    found = []
    for one in node.body:
        if isinstance(one, ast.ClassDef):
            names = [t.id for a in one.body if isinstance(a, ast.Assign) for t in a.targets if isinstance(t, ast.Name)]
            found += [f"{node.name}.{one.name}.{name}" for name in names if not hasattr(getattr(owner, one.name), name)]
        elif isinstance(one, ast.FunctionDef):
            if one.name != "__buffer__" and not fits(one, getattr(owner, one.name, None)):
                found.append(f"{node.name}.{one.name}")
        else:
            targets = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
            found += [f"{node.name}.{t.id}" for t in targets if isinstance(t, ast.Name) and not hasattr(owner, t.id)]
    return found


def fits(function: ast.FunctionDef, real: Any) -> bool:
    """Whether a method begins with the parameters of the stub, in one of its overloads."""
    if isinstance(real, property) or function.name == "__int__":
        return real is not None
    wanted = [one.arg for one in function.args.args[1:]]
    forms = re.findall(rf"{function.name}\(self: [^,)]*(?:, (.*?))?\) ->", (getattr(real, "__doc__", None) or ""))
    return any(re.findall(r"(?:^|, )(\w+): ", form or "")[: len(wanted)] == wanted for form in forms)


if __name__ == "__main__":
    main()
