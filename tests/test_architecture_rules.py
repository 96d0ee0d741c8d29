"""The rules that keep the package one line: who may import whom, what stays out of the estimation path, what start-up costs."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import hfmem

ROOT = Path(hfmem.__file__).parent

#: the stages, earliest first; a module imports its own stage and earlier ones
STAGES = ("hub", "checkpoint", "model", "memory", "plan", "api", "server_logs", "render", "cli")
#: what every stage may import
COMMON = {"errors", "units", "dtypes", "records", "remembered", "report"}
#: the one exception: sources hand parsed headers on, so I/O may use the pure parsers
ALLOWED_BACK = {("hub", "checkpoint")}

HEAVY = {"torch", "triton", "transformers", "numpy", "hfmem_kernels"}
HTTP = {"httpx", "requests", "urllib", "urllib3", "http", "socket", "ssl", "huggingface_hub", "aiohttp"}
TERMINAL = {"typer", "rich", "click"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Full names of all modules that a file imports, inside functions too; type-checking blocks included."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = ("hfmem", *path.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def stage_of(name: str) -> str | None:
    head = name.split(".")[0]
    return head if head in STAGES else None


MODULES = dict(modules())


def test_the_rules_see_the_package() -> None:
    assert {stage_of(name) for name in MODULES} >= set(STAGES)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if stage_of(name)))
def test_imports_point_back_along_the_line(name: str) -> None:
    own = stage_of(name)
    assert own is not None
    for imported in imports(MODULES[name]):
        if not imported.startswith("hfmem."):
            continue
        part = imported.split(".")[1]
        if part in STAGES:
            later = STAGES.index(part) > STAGES.index(own)
            assert not later or (own, part) in ALLOWED_BACK, f"{name} imports {imported}, a later stage"
        else:
            assert part in COMMON or part.startswith("_"), f"{name} imports {imported}"


def test_parsers_and_rules_do_no_input_or_output() -> None:
    """Only the hub stage opens connections; parsers, rules and plans see bytes and dicts."""
    for name, path in MODULES.items():
        if stage_of(name) in ("checkpoint", "model", "memory", "plan"):
            used = {imported.split(".")[0] for imported in imports(path)}
            assert not used & (HTTP | {"subprocess", "asyncio", "threading"}), name


def test_only_the_hub_speaks_http() -> None:
    for name, path in MODULES.items():
        if stage_of(name) != "hub":
            used = {imported.split(".")[0] for imported in imports(path)}
            assert not used & (HTTP - {"urllib"}), name
            assert not [imported for imported in imports(path) if imported.startswith("urllib.request")], name


def test_only_cli_and_render_know_the_terminal() -> None:
    for name, path in MODULES.items():
        if stage_of(name) not in ("cli", "render") and name != "__main__":
            assert not {imported.split(".")[0] for imported in imports(path)} & TERMINAL, name


def test_nothing_that_estimates_needs_a_gpu_stack() -> None:
    for name, path in MODULES.items():
        used = {imported.split(".")[0] for imported in imports(path)} & HEAVY
        assert not used or name in ("api.bench", "cli.bench", "plan.bench"), f"{name} imports {sorted(used)}"


def test_nothing_unpickles_or_evaluates() -> None:
    for name, path in MODULES.items():
        assert not {imported.split(".")[0] for imported in imports(path)} & {"pickle", "marshal", "shelve", "dill"}, (
            name
        )
        calls = {
            node.func.id
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "__import__"}, name


def test_config_keys_are_never_guessed() -> None:
    """No `getattr(config, key, default)` and no `.get(key, number)` where a config is read."""
    for name, path in MODULES.items():
        if not name.startswith("model."):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                assert len(node.args) < 3, f"{name}: getattr with a default, line {node.lineno}"


def test_no_module_is_called_kernels(tmp_path: Path) -> None:
    """An installed top-level `kernels` would overwrite the package of that name which transformers imports."""
    script = "from importlib.util import find_spec; spec = find_spec('kernels'); print(spec and (spec.origin or 'a namespace'))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60
    )
    found = done.stdout.strip()
    assert found == "None" or "site-packages" in found
    assert not (ROOT.parent / "kernels" / "__init__.py").exists()
    assert not list(Path(__file__).parent.rglob("__init__.py"))


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nimport json; print('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


NEVER_AT_START = {"torch", "triton", "transformers", "numpy", "httpx", "requests", "safetensors", "hfmem_kernels"}


def test_importing_hfmem_is_light() -> None:
    loaded = loaded_by("import hfmem")
    assert "hfmem" in loaded
    assert not loaded & (NEVER_AT_START | {"typer", "rich", "click", "huggingface_hub", "asyncio"})


def test_help_is_light() -> None:
    loaded = loaded_by(
        "from hfmem.cli import main\n"
        "sys.argv = ['hfmem', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    )
    assert not loaded & (NEVER_AT_START | {"huggingface_hub.hf_api"})


def test_reading_an_architecture_loads_no_client() -> None:
    loaded = loaded_by(
        "from hfmem.model.families.registry import read_architecture\n"
        "read_architecture({'model_type': 'llama', 'hidden_size': 64, 'vocab_size': 8})"
    )
    assert not loaded & (NEVER_AT_START | {"typer", "rich", "huggingface_hub", "socket", "asyncio"})


def test_a_family_loads_when_it_is_asked_for() -> None:
    loaded = loaded_by("import hfmem.model.families.registry")
    families = {
        name.removeprefix("hfmem.model.families.") for name in loaded if name.startswith("hfmem.model.families.")
    }
    assert families == {"registry", "common_types", "draft_types", "file_types", "multimodal_types", "text_types"}


def test_modules_stay_readable() -> None:
    """The house rule is about 300 lines; a registry of facts may be longer, nothing may grow into a heap."""
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in long.items() if lines > 500}


def test_the_package_names_no_folder_of_one_machine() -> None:
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert "/work/" not in text, name
        assert "../shared" not in text, name
