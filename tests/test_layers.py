"""The house rules, read from the source: who may import whom, and what nobody may do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers import (
    CALLERS_OF_COMMANDS,
    FORBIDDEN_CALLS,
    FRONT,
    ONLY,
    PICKLERS,
    PURE,
    READERS,
    ROOMS,
    ROOMS_WITH_SETTINGS,
    SEE_SETTINGS,
)
from repository import REPO

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
                is_module = inner in known or base == "a2s.commands"
                yield inner if not ours or is_module else base


def room_of(module: str) -> str:
    """Room of a module: the folder or file of a2s/ that it is in; "a2s" is the package itself."""
    return [*module.split("."), "a2s"][1] if module != "a2s" else "a2s"


def is_pure(module: str) -> bool:
    """Whether a module is mathematics, by its own name or that of a folder that it lies in."""
    parts = module.split(".")[1:]
    return any(".".join(parts[:end]) in PURE for end in range(1, len(parts) + 1))


def complaint_about(module: str, name: str) -> str | None:
    """What is wrong with `module` importing our module `name`, if anything."""
    room, other = room_of(module), room_of(name)
    if room == "a2s":
        allowed = other in ("a2s", FRONT)
        return None if allowed else f"{module} imports {name}; the package imports only {FRONT}"
    if other == "commands" and name not in (module, "a2s.commands"):
        return f"{module} imports the command {name}; only {sorted(CALLERS_OF_COMMANDS)} may"
    if other not in {room, *ROOMS[room]}:
        return f"{module} imports {name}; {room} may not import {other}"
    takes_settings = room in ROOMS_WITH_SETTINGS or module.removeprefix("a2s.") in SEE_SETTINGS
    if other == "config" and not takes_settings:
        return f"{module} imports {name}; it takes plain values"
    if is_pure(module) and not is_pure(name) and other != "errors":
        return f"{module} is pure and imports {name}, which is not"
    return None


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What the source does that its place does not allow."""
    tree = ast.parse(source)
    found = []
    names = set(imports(tree, module, is_package=is_package, known=set(SOURCES)))
    for name in sorted(names):
        top = name.split(".")[0]
        if top in PICKLERS:
            found.append(f"{module} imports {top}, which reads pickles")
        for package, owner in ONLY.items():
            if (name == package or name.startswith(package + ".")) and module != owner:
                found.append(f"{module} imports {package}; only {owner} may")
        if top == "a2s" and name not in {"a2s", "a2s.__version__"}:
            complaint = complaint_about(module, name)
            found += [complaint] if complaint else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [f"{module}:{node.lineno} {text}" for text in bad_call(node)]
            if module not in READERS and may_wait(node):
                found.append(f"{module}:{node.lineno} may wait for a named pipe; use storage.files")
            if module not in CALLERS_OF_COMMANDS and "a2s.commands." in imported_by_call(node):
                found.append(f"{module}:{node.lineno} imports a command by its name")
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


def may_wait(node: ast.Call) -> bool:
    """Whether a call opens a file to read it, without asking first whether it is one."""
    name = ast.unparse(node.func)
    if name.startswith("files.") or name == "fsspec.open":
        return False
    modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    opens = name.split(".")[-1] == "open" and any(mode in {"r", "rb"} for mode in modes)
    return opens or (name.split(".")[-1] in {"read_text", "read_bytes"} and "." in name)


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


def test_rooms_are_those_on_disk() -> None:
    rooms = {room_of(module) for module in SOURCES} - {"a2s"}
    assert rooms == set(ROOMS)
    for name in PURE | SEE_SETTINGS:
        path = REPO / "a2s" / Path(*name.split("."))
        assert path.with_suffix(".py").is_file() or path.is_dir(), f"{name} does not exist"


def test_rooms_import_downwards() -> None:
    seen: set[str] = set()
    for room, below in ROOMS.items():
        assert below <= seen, f"{room} may import {below - seen}, which stand below it in the list"
        seen.add(room)


def test_the_top_of_the_package_is_small() -> None:
    entries = [path for path in (REPO / "a2s").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16, sorted(path.name for path in entries)


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
    "module",
    [
        "a2s",
        "a2s.config.commands",
        "a2s.errors",
        "a2s.storage.run_folder",
        "a2s.parallel.progress",
    ],
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
        ("a2s.training.losses", "import ray", "only a2s.parallel.pool may"),
        ("a2s.commands.label", "from ray.util import x", "only a2s.parallel.pool may"),
        ("a2s.training.stage1", "from accelerate import Accelerator", "only a2s.parallel.ranks"),
        ("a2s.training.stage1", "import torch.distributed as dist", "only a2s.parallel.ranks"),
        ("a2s.training.stage1", "from torch import distributed", "only a2s.parallel.ranks"),
        ("a2s.labels.refine", "import pydensecrf.densecrf", "only a2s.labels.crf.pydensecrf"),
        ("a2s.labels.crf.energy", "import triton.language as tl", "torch_backend.filter_triton"),
        ("a2s.labels.crf.energy", "from numba import njit", "only a2s.labels.crf.numba_backend"),
        ("a2s.models.encoders", "import timm", "only a2s.models.timm_encoder"),
        ("a2s.commands.label", "from a2s.commands import predict", "only"),
        ("a2s.commands.label", "from .predict import run", "only"),
        ("a2s.pipeline", "from a2s.commands import label", "only"),
        ("a2s.commands.run", "importlib.import_module(f'a2s.commands.{name}')", "by its name"),
        ("a2s.training.losses", "from a2s.storage.files import atomic_write", "is pure"),
        ("a2s.training.losses", "def f():\n    from a2s.storage import files", "is pure"),
        ("a2s.data.epoch_plan", "from . import shards", "is pure"),
        ("a2s.data.loader", "from a2s.config.commands import ShardConfig", "may not import"),
        ("a2s.labels.quality", "from a2s.config.base import Settings", "plain values"),
        ("a2s.data.loader", "from a2s.parallel import pool", "data may not import parallel"),
        ("a2s.evaluation.pairs", "from a2s.training import losses", "may not import training"),
        ("a2s.training.losses", "from a2s.evaluation import metrics", "may not import evaluation"),
        ("a2s.errors", "from a2s.training import losses", "may not import"),
        ("a2s", "from a2s.errors import A2SError", "imports only api"),
        ("a2s.commands.run", "import pickle", "pickles"),
        ("a2s.models.saved", "torch.load(path)", "weights_only"),
        ("a2s.models.saved", "torch.load(path, weights_only=flag)", "weights_only"),
        ("a2s.models.saved", "np.load(path)", "allow_pickle"),
        ("a2s.commands.run", "subprocess.run(text, shell=True)", "shell"),
        ("a2s.commands.run", "path.read_text()", "named pipe"),
        ("a2s.data.shards", "open(path, 'rb')", "named pipe"),
        ("a2s.data.shards", "path.open('rb')", "named pipe"),
        ("a2s.commands.run", "try:\n    f()\nexcept:\n    pass", "bare except"),
    ],
)
def test_the_rules_bite(module: str, source: str, complaint: str) -> None:
    found = violations(source, module, is_package=module == "a2s")
    assert any(complaint in text for text in found), found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("a2s.parallel.pool", "import ray"),
        ("a2s.pipeline", "import_module(f'a2s.commands.{name}')"),
        ("a2s.commands.label", "from a2s.config.commands import LabelConfig"),
        ("a2s.storage.run_folder", "from a2s import __version__\nfrom a2s.errors import A2SError"),
        ("a2s.data.loader", "from .epoch_plan import make_plan\nfrom ..errors import DataError"),
        ("a2s.models.saved", "torch.load(path, weights_only=True)"),
    ],
)
def test_the_rules_let_good_code_pass(module: str, source: str) -> None:
    assert not violations(source, module)
