import subprocess
import sys
from collections import namedtuple

import pytest
import torch

from a2s.commands import doctor
from a2s.config.base import EncoderConfig
from a2s.config.checks import DoctorConfig

Usage = namedtuple("Usage", "total used free")


def config(tmp_path, weights="none"):
    encoder = EncoderConfig(name="mobilenet_v2", weights=str(weights))
    return DoctorConfig(encoder=encoder, out=tmp_path)


def test_healthy_machine_is_exit_0_and_every_check_speaks(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert doctor.run(config(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[1] for line in lines[:-1]]
    assert names == [
        *("python", "packages", "torch", "devices", "machine", "shm", "tmp", "home"),
        *("CRF", "CRF/GPU", "Ray", "launch", "disk", "encoder", "detector", "weights"),
    ]
    assert not any(line.startswith("fail") for line in lines)
    assert lines[-1].startswith("doctor: everything that is required works")
    assert list(tmp_path.iterdir()) == []


def test_command_says_what_is_broken_and_exits_2(tmp_path):
    not_weights = tmp_path / "weights.safetensors"
    not_weights.write_bytes(b"not weights")
    flags = ["--encoder.name", "mobilenet_v2", "--encoder.weights", str(not_weights)]
    done = subprocess.run(
        [sys.executable, "-m", "a2s", "doctor", *flags],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"},
    )
    assert done.returncode == 2, done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert [line.split()[1] for line in failed] == ["launch", "encoder"]
    assert "WORLD_SIZE" in failed[0]
    assert str(not_weights) in failed[1]
    assert "doctor: broken: launch, encoder" in done.stdout


def test_the_detector_is_counted():
    finding = doctor.detector("mobilenet_v2", "minet")
    assert (finding.status, finding.detail) == ("ok", "minet on mobilenet_v2: 5.90 M parameters")


def test_real_weights_are_covered(shared):
    file = shared / "encoders" / "mobilenet_v2_imagenet.safetensors"
    finding = doctor.encoder("mobilenet_v2", str(file))
    assert finding.status == "ok"
    assert "covers all" in finding.detail


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 12), "ok"), ((3, 13), "ok"), ((3, 14), "fail")]
)
def test_python_version(version, status):
    assert doctor.python_version(version).status == status


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    finding = doctor.packages()
    assert (finding.status, finding.detail) == ("fail", "missing: pip install no-such-package")


def test_an_optional_package_is_named_and_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    finding = doctor.packages()
    assert finding.status == "ok"
    assert "no timm (pip install 'a2s[timm]' for --encoder.name timm:NAME)" in finding.detail


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_crf_of_a_gpu_is_tried():
    finding = doctor.crf_on_gpu()
    assert (finding.status, finding.detail) == ("ok", "Triton's kernels work")


def test_a_gpu_whose_kernels_cannot_be_compiled_is_found(monkeypatch):
    from a2s.labels.crf import torch_backend

    def fails(image, energy, params):
        raise RuntimeError("Failed to find C compiler")

    assert doctor.crf_on_gpu().detail.startswith("no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_backend, "crf", fails)
    (finding,) = doctor._guarded("CRF/GPU", doctor.crf_on_gpu)
    assert finding.status == "fail"
    assert "C compiler" in finding.detail
    monkeypatch.setattr(torch_backend, "crf", lambda image, energy, params: image[..., 0] < 0)
    assert doctor.crf_on_gpu().status == "fail"


def test_broken_crf_is_found(monkeypatch):
    from a2s.labels.crf import numba_backend

    assert doctor.crf().status == "ok"
    monkeypatch.setattr(numba_backend, "crf", lambda image, energy, params: image[..., 0] < 0)
    assert doctor.crf().status == "fail"


@pytest.mark.parametrize(("free_gib", "status"), [(0.5, "fail"), (5, "warn"), (50, "ok")])
def test_disk_space(tmp_path, monkeypatch, free_gib, status):
    free = int(free_gib * doctor.GIB)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(free, 0, free))
    finding = doctor.disk(tmp_path / "not" / "there" / "yet")
    assert finding.status == status
    assert str(tmp_path) in finding.detail


def test_a_user_without_a_home_is_told_what_downloads_need(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("A2S_CACHE", raising=False)
    monkeypatch.setattr(doctor.places.Path, "home", no_home)
    finding = doctor.cached_weights()
    assert finding.status == "warn"
    assert "set A2S_CACHE" in finding.detail


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = doctor.disk(tmp_path)
    assert finding.status == "fail"
    assert "Permission denied" in finding.detail


def test_small_shared_memory_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1, 0, 64 * 2**20))
    finding = doctor.shared_memory(tmp_path)
    assert finding.status == "warn"
    assert "--shm-size" in finding.detail
    assert doctor.shared_memory(tmp_path / "absent").status == "warn"


def test_ray_address_in_the_environment_is_pointed_out():
    assert doctor.launch({"RAY_ADDRESS": "10.0.0.1:6379"}).status == "warn"
    ranks = {"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert doctor.launch(ranks).status == "ok"
    assert doctor.launch({"MASTER_ADDR": "x"}).status == "fail"
