"""The images: what they install, who runs in them, and that no compiler is left. None is built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from repository import REPO

from a2s.config.parse import parse

DOCKER = REPO / "docker"
TEXT = (DOCKER / "Dockerfile").read_text("utf-8")
# Continued lines belong together; comments are left out.
LINES = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stages by name: what each is made from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    instructions: list[tuple[str, str]] = []
    for line in filter(None, LINES):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            source, _, name = rest.partition(" AS ")
            instructions = []
            found[name] = (source, instructions)
        else:
            instructions.append((word, rest))
    return found


def history(name: str) -> list[tuple[str, str]]:
    """Instructions of a stage and of the stages that it is made from, the oldest first."""
    known = stages()
    source, instructions = known[name]
    return [*(history(source) if source in known else []), *instructions]


def pins(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, number in re.findall(r"^([\w.-]+)==(\S+)", path.read_text("utf-8"), re.MULTILINE):
        found.setdefault(name, set()).add(number)
    return found


def test_hadolint_has_no_complaint() -> None:
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_is_pinned_to_a_release() -> None:
    (number,) = re.findall(r"^ARG PYTHON=(\S+)$", TEXT, re.MULTILINE)
    assert re.fullmatch(r"3\.(11|12|13)\.\d+-slim-[a-z]+", number)
    known = stages()
    assert {source for source, _ in known.values()} - known.keys() == {"python:${PYTHON}"}
    assert all("==" in package for package in re.findall(r"pip install --no-cache-dir (\S+)", TEXT))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_final_image_has_no_compiler_and_does_not_run_as_root(target: str) -> None:
    lines = history(target)
    commands = " ".join(rest for word, rest in lines if word == "RUN")
    assert "apt-get" not in commands
    assert not re.search(r"\b(gcc|g\+\+|clang|build-essential)\b", commands)
    users = [rest for word, rest in lines if word == "USER"]
    assert users
    assert all(user.isdecimal() and int(user) > 0 for user in users)
    assert any(word == "HEALTHCHECK" and "import a2s" in rest for word, rest in lines)
    assert [rest for word, rest in lines if word == "ENTRYPOINT"] == ['["a2s"]']
    (copied,) = [rest for word, rest in lines if word == "COPY"]
    assert copied == f"--from=build-{target} /opt/a2s /opt/a2s"


def test_the_images_install_what_make_setup_installs() -> None:
    assert "pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.txt" in (
        REPO / "Makefile"
    ).read_text("utf-8")
    cuda = " ".join(rest for word, rest in history("build-cuda") if word == "RUN")
    assert "uv pip install -r requirements.txt -r cluster.txt" in cuda
    cpu = " ".join(rest for word, rest in history("build-cpu") if word == "RUN")
    (left_out,) = re.findall(r"grep -Ev '(.+?)' requirements.txt", cpu)
    assert "uv pip install -r others.txt -r cluster.txt" in cpu
    pinned = pins(REPO / "requirements.txt")
    others = {name for name in pinned if re.match(left_out, f"{name}==1")}
    assert {"torch", "torchvision"} <= others
    # What comes with torch for GPUs alone, and is not there on a CPU.
    gpu = {name for name in others if re.match(r"nvidia-|cuda-|triton$", name)}
    assert others == gpu | {"torch", "torchvision"}
    assert pins(REPO / "requirements.in") == {
        name: pinned[name] for name in ("torch", "torchvision")
    }


def test_the_pins_for_clusters_complete_those_of_the_repository() -> None:
    pinned, more = pins(REPO / "requirements.txt"), pins(DOCKER / "cluster.txt")
    assert not pinned.keys() & more.keys()
    wanted = set()
    for text in requires("ray") or []:
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": "default"}):
            wanted.add(re.sub(r"[-_.]+", "-", needed.name).lower())
    assert wanted - {re.sub(r"[-_.]+", "-", name) for name in (*pinned, *more)} == set()


def test_what_is_copied_reaches_the_build() -> None:
    ignored = (REPO / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[0] == "*"
    for word, rest in (line for stage in stages() for line in stages()[stage][1]):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (REPO / source).exists()
                assert f"!{source}" in ignored


def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))


def test_the_compose_file_is_what_compose_takes(tmp_path: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, DOCKER / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    broken = (DOCKER / "compose.yaml").read_text("utf-8").replace("retries: 24", "retry: 24")
    (tmp_path / "compose.yaml").write_text(broken)
    done = subprocess.run([*check, tmp_path / "compose.yaml"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "retry" in done.stdout


def test_the_compose_file_has_a_head_and_workers_of_one_image() -> None:
    services = compose()["services"]
    assert services.keys() == {"head", "worker"}
    for service in services.values():
        assert service["image"] == "a2s:cpu"
        assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["build"]["target"] in stages()
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${A2S_TOKEN:?")
        assert "shm_size" in service
    assert services["worker"]["depends_on"]["head"]["condition"] == "service_healthy"
    (line,) = services["head"]["command"]
    start, command = line.split(" && a2s ")
    assert start == "ray start --head --port=6379 --num-cpus=0"
    parse(command.split()[0], command.split()[1:])


def test_triton_gets_its_launcher_without_a_compiler(tmp_path: Path) -> None:
    pytest.importorskip("triton.backends.nvidia.driver")
    tool = tmp_path / "bin" / "triton-cc"
    tool.parent.mkdir()
    shutil.copy(DOCKER / "triton_cc.py", tool)
    tool.chmod(0o755)
    folder = tmp_path / "lib" / "triton-cc"
    subprocess.run([sys.executable, tool, "build", folder], check=True)
    code = (
        "import sys; from pathlib import Path; from triton.backends.nvidia import driver\n"
        "from triton.runtime.build import _build\n"
        "source = sys.argv[2] if len(sys.argv) > 2 else str(Path(driver.dirname) / 'driver.c')\n"
        "print(_build('cuda_utils', source, sys.argv[1], [], driver.include_dirs,"
        " driver.libraries, []))"
    )
    # No compiler is on this PATH.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "python3").symlink_to(sys.executable)
    environment = {"PATH": f"{tmp_path / 'path'}:/nowhere", "CC": str(tool)}
    command = ["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in environment.items())]
    command += [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    library = Path(done.stdout.strip()).read_bytes()
    assert b"PyInit_cuda_utils" in library
    assert b"libcuda.so.1" in library
    (tmp_path / "other.c").write_text("int x;")
    refused = subprocess.run([*command, str(tmp_path / "other.c")], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "this image has no C compiler" in refused.stderr
