"""What an installation brings: dependencies that are used, presets, a light package."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from repository import REPO

from a2s.config.parse import PRESETS, parse

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    """Top-level names that modules of the package import."""
    names: set[str] = set()
    for path in (REPO / "a2s").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    return names


def test_every_base_dependency_is_imported() -> None:
    providers = packages_distributions()
    used = {normal(name) for module in imported() for name in providers.get(module, [])}
    asked = {normal(re.split(r"[\[<>=!~; ]", entry)[0]) for entry in PROJECT["dependencies"]}
    assert asked - used == set()


def test_every_import_is_a_dependency() -> None:
    providers = packages_distributions()
    extras = [entry for group in PROJECT["optional-dependencies"].values() for entry in group]
    asked = {
        normal(re.split(r"[\[<>=!~; ]", entry)[0]) for entry in [*PROJECT["dependencies"], *extras]
    }
    # azure.core comes with adlfs, aiohttp with fsspec[http], markupsafe with jinja2, triton with
    # torch's wheels for GPUs, llvmlite with numba.
    asked |= {"a2s", "azure", "aiohttp", "triton", "llvmlite", "markupsafe"}
    modules = imported() - set(sys.stdlib_module_names) - {"_typeshed", "a2s", "backports"}
    unknown = {m for m in modules if not {normal(name) for name in providers.get(m, [m])} & asked}
    assert unknown == set()


def test_import_takes_no_time() -> None:
    code = (
        "import time; start = time.process_time(); import a2s; print(time.process_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    )
    assert float(done.stdout) < 0.2


def test_a_wheel_brings_presets_and_models(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("a2s", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / name, source / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    (source / "dist").mkdir()
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build], cwd=source, check=True, capture_output=True
    )
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        for path in (REPO / "configs").glob("*.yaml"):
            assert files.read(f"a2s/config/presets/{path.name}") == path.read_bytes()
        for path in (REPO / "a2s" / "models" / "weights").iterdir():
            assert files.read(f"a2s/models/weights/{path.name}") == path.read_bytes()


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_preset_is_given_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["photos", "--out", "runs/x", "--config"]
    assert parse("run", [*flags, name]) == parse("run", [*flags, str(PRESETS / f"{name}.yaml")])
    # A file of that name in the folder comes first.
    Path(name).write_text("run: {seed: 7}\n", encoding="utf-8")
    assert parse("run", [*flags, name]).seed == 7
