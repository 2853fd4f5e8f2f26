"""`a2s doctor`: check what works on this machine, one line per check, with what to do.

a2s doctor
a2s doctor --encoder.name mobilenet_v2 --encoder.weights FILE --out runs/
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from a2s.config.base import DetectorName
from a2s.config.checks import DoctorConfig
from a2s.errors import A2SError
from a2s.parallel.ray_session import temporary_folder
from a2s.storage import machine, places
from a2s.storage.findings import GIB, Finding, home, shared_memory, temporary_files

PYTHONS = ((3, 11), (3, 12), (3, 13))
PACKAGES = (
    *("torch", "torchvision", "accelerate", "webdataset", "pyarrow"),
    *("safetensors", "numpy", "opencv-python-headless", "pillow", "pydantic", "tyro"),
)
MIN_MEMORY_GIB = 4
FULL_DISK_GIB, LOW_DISK_GIB = 1, 10


def run(config: DoctorConfig) -> int:
    """Print every finding; return 2 if something required is broken, else 0."""
    findings = []
    for finding in checks(config):
        print(finding, flush=True)
        findings.append(finding)
    broken = [finding.what for finding in findings if finding.status == "fail"]
    warned = [finding.what for finding in findings if finding.status == "warn"]
    if broken:
        print(f"doctor: broken: {', '.join(broken)}; repair these first")
        return 2
    warnings = f"; see the warnings about {', '.join(warned)}" if warned else ""
    print(f"doctor: everything that is required works{warnings}")
    return 0


def checks(config: DoctorConfig) -> Iterator[Finding]:
    """Run every check, cheap ones first; a check that raises has failed."""
    yield python_version(sys.version_info[:2])
    yield packages()
    yield from _guarded("torch", torch_pair)
    yield from _guarded("devices", devices)
    yield cpu_and_memory()
    yield shared_memory(Path("/dev/shm"))
    yield from _guarded("tmp", lambda: temporary_files(temporary_folder()))
    yield home()
    yield from _guarded("CRF", crf)
    yield from _guarded("CRF/GPU", crf_on_gpu)
    yield from _guarded("Ray", ray)
    yield launch(os.environ)
    yield disk(config.out or Path.cwd())
    name, weights = config.encoder.name, config.encoder.weights
    yield from _guarded("encoder", lambda: encoder(name, weights))
    yield from _guarded("detector", lambda: detector(name, config.detector))
    yield from _guarded("weights", cached_weights)


def _guarded(what: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    try:
        yield check()
    except A2SError as error:
        yield Finding("fail", what, str(error).removeprefix(f"{what}: "))
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        # The package is installed but does not load; report why.
        yield Finding("fail", what, f"{type(error).__name__}: {error}; reinstall the package")


def python_version(version: tuple[int, ...]) -> Finding:
    """Python is a version that is tested with all packages."""
    found = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if tuple(version) not in PYTHONS:
        return Finding("fail", "python", f"{found}; use Python 3.11, 3.12 or 3.13")
    return Finding("ok", "python", found)


def packages() -> Finding:
    """Every package that a2s needs is installed; timm is optional."""
    versions, missing = [], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("fail", "packages", f"missing: pip install {' '.join(missing)}")
    here = importlib.util.find_spec("timm") is not None
    without = "no timm (pip install 'a2s[timm]' for --encoder.name timm:NAME)"
    versions.append(f"timm {importlib.metadata.version('timm')}" if here else without)
    return Finding("ok", "packages", ", ".join(versions))


def torch_pair() -> Finding:
    """Torch computes, and torchvision is built for this torch."""
    import torch

    ones = torch.ones(2, 2)
    assert torch.equal(ones @ ones, ones * 2)
    try:
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        line = (str(error).strip().splitlines() or ["it does not load"])[0]
        detail = (
            f"torch {torch.__version__} works, torchvision does not ({line}): they are a pair, "
            "install both of one release and from the same index"
        )
        return Finding("fail", "torch", detail)
    return Finding(
        "ok", "torch", f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    )


def devices() -> Finding:
    """The GPUs compute; list them with their memory."""
    import torch

    if not torch.cuda.is_available():
        return Finding("ok", "devices", "no GPU; everything runs on the CPU, training is slow")
    names = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        names.append(f"{properties.name} ({properties.total_memory / GIB:.0f} GiB)")
    torch.zeros(1, device="cuda").add_(1)
    return Finding("ok", "devices", ", ".join(names))


def cpu_and_memory() -> Finding:
    """There is enough free memory; count the cores that this process may use."""
    free_gib = machine.free_memory_bytes() / GIB
    quota = machine.cpu_quota()
    of_quota = "" if quota is None else f" (quota {quota:g})"
    found = f"{machine.num_cpus()} CPU core(s){of_quota}, {free_gib:.1f} GiB of memory free"
    if free_gib < MIN_MEMORY_GIB:
        return Finding("warn", "machine", f"{found}; training wants {MIN_MEMORY_GIB} GiB or more")
    return Finding("ok", "machine", found)


def crf() -> Finding:
    """The dense CRF turns a rough square into a mask."""
    from a2s.labels.crf.numba_backend import cache_folder
    from a2s.labels.crf.self_test import mask_of

    mask = mask_of("numba")
    if mask is None:
        return Finding("fail", "CRF", "numba runs but its mask is wrong; reinstall numba")
    works = f"numba {importlib.metadata.version('numba')} works"
    if (kept := cache_folder()) is None:
        detail = f"{works}, but compiles again in every process; set NUMBA_CACHE_DIR to a folder"
        return Finding("warn", "CRF", detail)
    works += f" (compiled into {kept})"
    if importlib.util.find_spec("pydensecrf") is None:
        return Finding("ok", "CRF", f"{works}; pydensecrf, the reference, is not installed")
    if mask_of("pydensecrf") != mask:
        return Finding("warn", "CRF", f"{works}, but pydensecrf makes another mask")
    return Finding("ok", "CRF", f"{works}; pydensecrf makes the same mask")


def crf_on_gpu() -> Finding:
    """Triton compiles the kernels of the CRF, which takes a C compiler."""
    import torch

    from a2s.labels.crf.self_test import mask_of

    if not torch.cuda.is_available():
        return Finding("ok", "CRF/GPU", "no GPU; the CRF runs on the CPU")
    if mask_of("torch") is None:
        return Finding("fail", "CRF/GPU", "runs but its mask is wrong; reinstall torch")
    return Finding("ok", "CRF/GPU", "Triton's kernels work")


def ray() -> Finding:
    """Ray can be imported, in another process, because only the pool may import it here."""
    code = "import ray; print(ray.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(
            "warn", "Ray", f"does not import ({line}); pip install 'ray>=2.52', or --workers 0"
        )
    return Finding("ok", "Ray", f"ray {done.stdout.strip()}")


def launch(environ: Mapping[str, str]) -> Finding:
    """The environment variables of a launcher are complete or absent."""
    from a2s.parallel.launch import check_launch

    try:
        check_launch(environ)
    except A2SError as error:
        return Finding("fail", "launch", str(error).removeprefix("launch: "))
    world = environ.get("WORLD_SIZE", "1")
    if "RAY_ADDRESS" in environ:
        detail = "RAY_ADDRESS is set and ignored; a cluster is joined only with --ray-address"
        return Finding("warn", "launch", detail)
    return Finding("ok", "launch", f"{world} process(es)")


def disk(folder: Path) -> Finding:
    """Check free space, and that files can be written and locked; some network disks refuse."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free_gib = shutil.disk_usage(existing).free / GIB
    found = f"{free_gib:.1f} GiB free in {existing}"
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"a2s")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding("fail", "disk", f"{existing}: {error.strerror}; choose another --out")
    if free_gib < FULL_DISK_GIB:
        return Finding("fail", "disk", f"{found}; make room or choose another --out")
    if free_gib < LOW_DISK_GIB:
        return Finding("warn", "disk", f"{found}; the stage-1 feature cache alone may take more")
    return Finding("ok", "disk", found)


def encoder(name: str, weights: str) -> Finding:
    """The weights file covers every tensor of the encoder."""
    from a2s.models.encoder_weights import load_encoder

    built = load_encoder(name, weights)
    if weights == "none":
        detail = f"{name} builds, untrained; give --encoder.weights FILE or a name to check it"
        return Finding("warn", "encoder", detail)
    count = len(built.state_dict())
    return Finding("ok", "encoder", f"{name}: {weights} covers all {count} tensors")


def detector(name: str, chosen: DetectorName) -> Finding:
    """The network of stage 2 builds."""
    from a2s.models.detector import Detector
    from a2s.models.encoders import build_encoder

    net = Detector(build_encoder(name), detector=chosen)
    millions = sum(parameter.numel() for parameter in net.parameters()) / 1e6
    return Finding("ok", "detector", f"{chosen} on {name}: {millions:.2f} M parameters")


def cached_weights() -> Finding:
    """List the registered weights that are on this machine, and the others."""
    from a2s.models.encoder_weights import cache_folder
    from a2s.models.published_weights import REGISTRY

    try:
        folder = cache_folder()
    except A2SError as error:
        return Finding("warn", "weights", str(error))
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if not places.is_writable(existing):
        detail = f"downloads have no place ({folder}); set A2S_CACHE to a folder for them"
        return Finding("warn", "weights", detail)
    here = [name for name, source in REGISTRY.items() if (folder / source.file_name).is_file()]
    away = [name for name in REGISTRY if name not in here]
    found = f"cached in {folder}: {', '.join(here) or 'none'}"
    return Finding(
        "ok", "weights", f"{found}; downloaded when asked for: {', '.join(away) or 'none'}"
    )
