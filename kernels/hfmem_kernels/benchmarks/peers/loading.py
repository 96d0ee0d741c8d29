"""Finding a peer's modules: installed, or in a folder that the user names; none of their code is kept here.

A Triton kernel is one file that imports a few names of a large engine. From a named folder such a file is loaded by itself: the
packages around it become bare namespaces whose `__init__` never runs, and the few names are given to it as stand-ins.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


class Absent(Exception):
    """A peer that is not there, or does not load; the message is the reason that its row shows."""


#: modules → the names that stand in for theirs
StandIns = Mapping[str, Mapping[str, Any]]


def installed(name: str, project: str, folder: Path | None = None) -> ModuleType:
    """A module of an installed package, or of one in `folder`, which then comes first on the path.

    Raises:
        Absent: it is not there, or its import fails.
    """
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        where = f"in {folder}" if folder else "installed"
        raise Absent(f"{error.name} is not {where} (--peer-path {project}=FOLDER)") from None
    except Exception as error:  # whatever a foreign package does while it loads
        raise Absent(f"{name} does not load: {first_line(error)}") from None


def alone(name: str, project: str, folder: Path | None, stand_ins: Callable[[Path], StandIns]) -> ModuleType:
    """One module from the files under `folder`, without its package; without a folder, of the installed package.

    stand_ins: given the folder, what the module imports of the packages around it.

    Raises:
        Absent: it is not there, or its import fails.
    """
    if folder is None:
        return installed(name, project)
    if not (folder / (name.replace(".", "/") + ".py")).is_file():
        raise Absent(f"{name.replace('.', '/')}.py is not in {folder}")
    for module, names in stand_ins(folder).items():
        _namespace(module.rpartition(".")[0], folder)
        stand_in = ModuleType(module)
        stand_in.__dict__.update(names)
        _put(module, stand_in)
    _namespace(name.rpartition(".")[0], folder)
    try:
        return importlib.import_module(name)
    except Exception as error:  # a release whose file imports something else
        raise Absent(f"{name} of {folder} does not load alone: {first_line(error)}") from None


def member(module: ModuleType, name: str, *parameters: str) -> Any:
    """A function or class of a peer's module, which takes `parameters` by name.

    Raises:
        Absent: a release without it, or whose function takes other arguments; the message says which.
    """
    release = getattr(sys.modules.get(module.__name__.partition(".")[0]), "__version__", None)
    where = f"{module.__name__}{f' of release {release}' if isinstance(release, str) else ''}"
    found = getattr(module, name, None)
    if found is None:
        raise Absent(f"{where} has no {name}")
    if missing := missing_parameters(found, parameters):
        raise Absent(f"{name} of {where} takes no {', '.join(missing)}")
    return found


def missing_parameters(function: Any, names: Iterable[str]) -> list[str]:
    """Those of `names` that a function does not take; none where nobody can tell."""
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # compiled, or a launcher object
        return []
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return []
    return [name for name in names if name not in known]


def _put(name: str, module: ModuleType) -> None:
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, module)


def _namespace(name: str, folder: Path) -> None:
    """`name` and its parents as packages without an `__init__`, unless they are there already."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        package = ".".join(parts[:count])
        if package not in sys.modules:
            module = ModuleType(package)
            module.__path__ = [str(folder.joinpath(*parts[:count]))]
            _put(package, module)


def class_of(folder: Path, file: str, name: str, names: Mapping[str, Any]) -> Any:
    """One class of a source file whose module is too large to import: its statement alone is run, with `names` in sight.

    Raises:
        Absent: the file or the class is not there.
    """
    path = folder / file
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise Absent(f"{file} of {folder}: {first_line(error)}") from None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            scope: dict[str, Any] = {"__name__": name, **names}
            exec(compile(ast.Module([node], []), str(path), "exec"), scope)
            return scope[name]
    raise Absent(f"{file} of {folder} has no class {name}")


def first_line(error: BaseException) -> str:
    """An error on one line, for a table."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
