"""The rules that keep the package one line: who may import whom, what stays out of the estimation path, what start-up costs."""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hfmem

ROOT = Path(hfmem.__file__).parent

#: each stage and those that it may import. The hub hands parsed headers on, so it uses the parsers; parsers, rules and plans never
#: see the hub
STAGES: dict[str, set[str]] = {
    "checkpoint": set(),
    "hub": {"checkpoint"},
    "model": {"checkpoint"},
    "memory": {"checkpoint", "model"},
    "plan": {"checkpoint", "model", "memory"},
    "api": {"hub", "checkpoint", "model", "memory", "plan"},
    "server_logs": {"hub", "checkpoint", "model", "memory", "plan", "api"},
    "render": {"hub", "checkpoint", "model", "memory", "plan", "api", "server_logs"},
    "cli": {"hub", "checkpoint", "model", "memory", "plan", "api", "server_logs", "render"},
}
#: what every stage may import, and what those modules may import
COMMON: dict[str, set[str]] = {
    "errors": set(),
    "units": {"errors"},
    "dtypes": {"errors"},
    "records": set(),
    "remembered": set(),
    "report": {"records"},
}
#: the one way to the package's own module: the version that `--version` and requests name
ROOT_NAMES = {"hfmem.__version__"}

HEAVY = {"torch", "triton", "transformers", "numpy", "hfmem_kernels"}
HTTP = {"httpx", "requests", "urllib", "urllib3", "http", "socket", "ssl", "huggingface_hub", "aiohttp"}
TERMINAL = {"typer", "rich", "click"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


@functools.cache
def source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def tree(path: Path, *words: str) -> ast.Module:
    """A file's syntax tree, empty where none of `words` stands in it. Not kept: a collector that walks all trees takes longer
    than parsing them again."""
    return ast.parse(source(path) if not words or any(word in source(path) for word in words) else "")


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Full names of all modules that a file imports, inside functions too; type-checking blocks included."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    package = ("hfmem", *path.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in statements(tree(path).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def statements(block: list[ast.stmt]) -> Iterator[ast.AST]:
    """All statements of a block, those inside others too; expressions are not walked."""
    for node in block:
        yield node
        for inner in ("body", "orelse", "handlers", "finalbody", "cases"):
            yield from statements(getattr(node, inner, []))


def stage_of(name: str) -> str | None:
    head = name.split(".")[0]
    return head if head in STAGES else None


MODULES = dict(modules())


def test_the_rules_see_the_package() -> None:
    assert {stage_of(name) for name in MODULES} >= set(STAGES)


def test_imports_point_back_along_the_line() -> None:
    allowed = {stage: {stage, *earlier, *COMMON} for stage, earlier in STAGES.items()} | COMMON
    wrong = [
        f"{name} imports {imported}"
        for name, path in MODULES.items()
        for imported in imports(path)
        if imported.startswith("hfmem.") and imported not in ROOT_NAMES and (own := name.split(".")[0]) in allowed
        if imported.split(".")[1] not in allowed[own]
    ]
    assert not wrong
    # what else there is at the top: the public names and the process
    assert {name for name in MODULES if name.split(".")[0] not in allowed} == {"__init__", "__main__"}


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
        assert not used or name in ("api.bench_run",), f"{name} imports {sorted(used)}"


EVALUATES = ("eval", "exec", "__import__")


def test_nothing_unpickles_or_evaluates() -> None:
    for name, path in MODULES.items():
        assert not {imported.split(".")[0] for imported in imports(path)} & {"pickle", "marshal", "shelve", "dill"}, (
            name
        )
        calls = {
            node.func.id
            for node in ast.walk(tree(path, *EVALUATES))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & set(EVALUATES), name


def test_config_keys_are_never_guessed() -> None:
    """No `getattr(config, key, default)` where a config is read."""
    for name, path in MODULES.items():
        if not name.startswith("model."):
            continue
        for node in ast.walk(tree(path, "getattr")):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                assert len(node.args) < 3, f"{name}: getattr with a default, line {node.lineno}"


def test_the_config_is_read_at_the_model_stage_and_nowhere_later() -> None:
    """Rules of engines and plans ask the architecture; what they need of a config becomes a fact there."""
    for name, path in MODULES.items():
        if stage_of(name) not in ("memory", "plan") or name == "memory.lora":  # an adapter has a config file of its own
            continue
        assert "hfmem.model.config" not in imports(path), name
        nodes = list(ast.walk(tree(path, "config", "cfg")))
        asked = {node.arg for node in nodes if isinstance(node, ast.arg)}
        asked |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not asked & {"config", "cfg"}, name


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
    """The house rule is about 300 lines; nothing may grow into a heap."""
    long = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def test_the_package_names_no_folder_of_one_machine() -> None:
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        assert "/work/" not in text, name
        assert "../shared" not in text, name


#: matches over kinds of cache in which a kind that nobody thought of is rightly like most, and why
OPEN_MATCHES = {
    "memory.engines.llama_cpp.cells": {
        "cell_bytes": "two old ways of keeping latents",
        "seen": "compressed rows and indexers alone read more than cells",
        "state_bytes": "asks isinstance itself",
    },
    "memory.engines.llama_cpp.flash": {"heads_of": "what has no heads is not attention"},
    "memory.engines.sglang.pool": {"_token_pool": "what has no V is logged in one sum"},
    "memory.engines.transformers": {"_state_bytes": "ends in state_tensors, which the type checker proves whole"},
    "memory.engines.vllm.layers": {
        "_as_held": "as the layer says",
        "specs": "ends in a function of recurrent kinds",
    },
    "memory.engines.vllm.blocks": {"_kernel_block": "the smallest block of every backend"},
    "memory.engines.vllm.states": {"request_states": "the last two"},
    "memory.drafts": {"prediction_layers": "kept as the decoder's last one"},
    "memory.cache": {"constant_bytes": "ends in state_tensors, which the type checker proves whole"},
    "memory.graphs": {"_output_width": "no wider", "_node_bytes": "nodes of the usual size"},
    "memory.rotary": {"_kinds": "no table of its own"},
    "plan.bench": {"_keys": "only these are compared with a query one by one"},
    "plan.bench_shapes": {"_tokens": "ends in held_tokens"},
    "plan.explain_cache": {"_why": "nothing to say"},
    "plan.explain_parameters": {"attention_note": "nothing to say"},
}


def _closes(body: ast.stmt) -> bool:
    """Whether the type checker, or a crash, tells of what arrives here."""
    if isinstance(body, ast.Raise):
        return True
    call = body.value if isinstance(body, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func) in ("assert_never", "assert_type")


def test_a_new_kind_of_cache_is_met_everywhere() -> None:
    """`case _: return 0` would answer for a kind that is yet to come; what is right for any kind is listed with its reason."""
    declared = {node.name for node in ast.walk(tree(MODULES["model.layers"])) if isinstance(node, ast.ClassDef)}
    found: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        functions = [node for node in ast.walk(tree(path, "match ")) if isinstance(node, ast.FunctionDef)]
        for function, node in ((f, n) for f in functions for n in ast.walk(f) if isinstance(n, ast.Match)):
            classes = {
                ast.unparse(part.cls)
                for case in node.cases
                for part in ast.walk(case.pattern)
                if isinstance(part, ast.MatchClass)
            }
            last = node.cases[-1]
            anything = isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None
            if classes & declared and anything and not _closes(last.body[0]):
                found.setdefault(name, set()).add(function.name)
    assert found == {name: set(functions) for name, functions in OPEN_MATCHES.items()}
