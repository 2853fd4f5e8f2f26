"""The house rules, read from the source: who may import whom, and what nobody may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import (
    CALLERS_OF_JOBS,
    CONFIG,
    CONFIGURATION,
    FORBIDDEN_CALLS,
    JOB,
    LAYERS,
    MAIN,
    ONLY,
    PICKLERS,
)

REPO = Path(__file__).resolve().parents[1]
MAX_LINES = 300


def module_name(path: Path) -> str:
    """Dotted name of a source file of the package."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted((REPO / "a2s").rglob("*.py"))}


def imports(tree: ast.AST, module: str, *, is_package: bool, known: set[str]) -> Iterator[str]:
    """Dotted names that a module imports anywhere, also inside functions and type checks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = parts[: len(parts) - node.level + is_package]
                base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                ours = base.split(".")[0] == "a2s"
                yield inner if not ours or inner in known or base == "a2s.jobs" else base


def layer(module: str) -> int:
    """Layer of a module: that of its longest known prefix below the package itself."""
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        if (name := ".".join(parts[:end])) in LAYERS:
            return LAYERS[name]
    if module == "a2s":
        return MAIN
    raise AssertionError(f"{module} has no layer; give it one in tests/test_layers.py")


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What the source does that its place in the house does not allow."""
    tree = ast.parse(source)
    found = []
    names = set(imports(tree, module, is_package=is_package, known=set(SOURCES) | set(LAYERS)))
    for name in sorted(names):
        top = name.split(".")[0]
        if top in PICKLERS:
            found.append(f"{module} imports {top}, which reads pickles")
        for package, owner in ONLY.items():
            if (name == package or name.startswith(package + ".")) and module != owner:
                found.append(f"{module} imports {package}; only {owner} may")
        if top != "a2s" or name in {"a2s", "a2s.__version__"}:
            continue
        is_job = name.startswith("a2s.jobs.") and name != module
        if is_job and layer(module) == JOB and module not in CALLERS_OF_JOBS:
            found.append(f"{module} imports the job {name}; only {sorted(CALLERS_OF_JOBS)} may")
        if name in CONFIGURATION and layer(module) < CONFIG:
            found.append(f"{module} imports {name}; below the jobs take plain values")
        elif layer(name) > layer(module):
            found.append(f"{module} imports {name}, which is above it")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [f"{module}:{node.lineno} {text}" for text in bad_call(node)]
            if module not in CALLERS_OF_JOBS and "a2s.jobs." in imported_by_call(node):
                found.append(f"{module}:{node.lineno} imports a job by its name")
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{module}:{node.lineno} bare except")
    return found


def bad_call(node: ast.Call) -> Iterator[str]:
    """Calls that unpickle, run a shell or run text."""
    name = ast.unparse(node.func)
    keywords = {word.arg: word.value for word in node.keywords}

    def is_constant(word: str, value: object) -> bool:
        given = keywords.get(word)
        return isinstance(given, ast.Constant) and given.value is value

    if name in FORBIDDEN_CALLS:
        yield f"{name} {FORBIDDEN_CALLS[name]}"
    if name == "torch.load" and not is_constant("weights_only", True):
        yield "torch.load without weights_only=True"
    if name in {"np.load", "numpy.load"} and not is_constant("allow_pickle", False):
        yield "np.load without allow_pickle=False"
    if "shell" in keywords and not is_constant("shell", False):
        yield "subprocess through a shell"
    if name.split(".")[-1] in {"xdecode", "save_state"}:
        yield f"{name} goes through pickle"


def imported_by_call(node: ast.Call) -> str:
    """What `importlib.import_module(…)` is given, as text."""
    is_import = ast.unparse(node.func).split(".")[-1] == "import_module"
    return ast.unparse(node.args[0]) if is_import and node.args else ""


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_module_keeps_its_place(module: str) -> None:
    path = SOURCES[module]
    found = violations(path.read_text("utf-8"), module, is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


def test_imports_have_no_cycle() -> None:
    known = set(SOURCES)
    graph = {
        module: {
            name
            for name in imports(
                ast.parse(path.read_text("utf-8")),
                module,
                is_package=path.name == "__init__.py",
                known=known,
            )
            if name in known and name not in {"a2s", module}
        }
        for module, path in SOURCES.items()
    }
    while leaves := {module for module, uses in graph.items() if not uses}:
        graph = {m: uses - leaves for m, uses in graph.items() if m not in leaves}
    assert not graph, f"modules import each other in a circle: {graph}"


def test_all_modules_are_seen() -> None:
    for module in LAYERS:
        assert (REPO / Path(*module.split("."))).with_suffix(".py").is_file() or (
            REPO / Path(*module.split(".")) / "__init__.py"
        ).is_file(), f"{module} is listed in LAYERS and does not exist"


def test_files_stay_readable() -> None:
    folders = [REPO / name for name in ("a2s", "tests", "benchmarks")]
    lengths = {
        str(path.relative_to(REPO)): len(path.read_text("utf-8").splitlines())
        for folder in folders
        for path in folder.rglob("*.py")
    }
    too_long = {path: count for path, count in lengths.items() if count > MAX_LINES}
    assert not too_long, f"over {MAX_LINES} lines; which two things has it become? {too_long}"


@pytest.mark.parametrize(
    "module", ["a2s", "a2s.config", "a2s.errors", "a2s.rundir", "a2s.progress"]
)
def test_import_is_light(module: str) -> None:
    heavy = ("torch", "ray", "accelerate", "cv2", "matplotlib", "pyarrow")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert done.stdout.strip() == "[]", f"import {module} pays for {done.stdout.strip()}"


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("a2s.losses", "import ray", "only a2s.pool may"),
        ("a2s.jobs.label", "from ray.util import x", "only a2s.pool may"),
        ("a2s.jobs.stage1", "from accelerate import Accelerator", "only a2s.distributed may"),
        ("a2s.jobs.stage1", "import torch.distributed as dist", "only a2s.distributed may"),
        ("a2s.jobs.stage1", "from torch import distributed", "only a2s.distributed may"),
        ("a2s.refine.median", "import pydensecrf.densecrf", "only a2s.refine.crf_pydensecrf may"),
        ("a2s.refine.crf_torch", "import triton.language as tl", "only a2s.refine.filter_triton"),
        ("a2s.refine.crf_numba", "from numba import njit", "only a2s.refine.lattice.jit may"),
        ("a2s.jobs.label", "from a2s.jobs import predict", "only"),
        ("a2s.jobs.label", "from .predict import run", "only"),
        ("a2s.jobs.run", "from a2s.jobs import label", "only"),
        ("a2s.jobs.run", "importlib.import_module(f'a2s.jobs.{name}')", "imports a job"),
        ("a2s.losses", "from a2s.rundir import atomic_write", "above it"),
        ("a2s.losses", "def f():\n    from a2s import rundir", "above it"),
        ("a2s.data.plan", "from . import tars", "above it"),
        ("a2s.data.loader", "from a2s.config import ShardConfig", "plain values"),
        ("a2s.errors", "from a2s import losses", "above it"),
        ("a2s.jobs.run", "import pickle", "pickles"),
        ("a2s.checkpoint", "torch.load(path)", "weights_only"),
        ("a2s.checkpoint", "torch.load(path, weights_only=flag)", "weights_only"),
        ("a2s.checkpoint", "np.load(path)", "allow_pickle"),
        ("a2s.jobs.run", "subprocess.run(text, shell=True)", "shell"),
        ("a2s.jobs.run", "try:\n    f()\nexcept:\n    pass", "bare except"),
    ],
)
def test_the_rules_bite(module: str, source: str, complaint: str) -> None:
    found = violations(source, module)
    assert any(complaint in text for text in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("a2s.pool", "import ray"),
        ("a2s.joblist", "from a2s.jobs import label\nimport_module(f'a2s.jobs.{name}')"),
        ("a2s.jobs.label", "from a2s.config import LabelConfig\nfrom a2s import rundir"),
        ("a2s.rundir", "from a2s import __version__\nfrom a2s.errors import ConfigError"),
        ("a2s.data.loader", "from .plan import make_plan\nfrom ..errors import DataError"),
        ("a2s.checkpoint", "torch.load(path, weights_only=True)"),
    ],
)
def test_the_rules_let_good_code_pass(module: str, source: str) -> None:
    assert not violations(source, module)
