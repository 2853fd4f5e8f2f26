"""Weight files: tensors are read; damage, foreign bytes and pickled code are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from a2s.errors import WeightsError
from a2s.models.encoder_weights import load_encoder
from a2s.models.encoders import build_encoder


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_tensors_beside_an_optimizer(tmp_path: Path, wrapper: str) -> None:
    state = build_encoder("mobilenet_v2").state_dict()
    path = tmp_path / "last.pth"
    torch.save({"epoch": 3, wrapper: state, "optimizer": {"lr": torch.zeros(1)}}, path)
    loaded = load_encoder("mobilenet_v2", str(path)).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_damaged_archive_is_noticed(tmp_path: Path) -> None:
    """Torch itself reads it without an error."""
    path = tmp_path / "m.pth"
    torch.save(build_encoder("mobilenet_v2").state_dict(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"m\.pth is damaged \(checksum of its m/data/\d+\)"):
        load_encoder("mobilenet_v2", str(path))


class Payload:
    """Would run a command if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("name", ["w.pth", "w.pth.tar", "w.safetensors", "w"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 torn", b"\x80\x02}q\x00"])
def test_foreign_bytes_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        load_encoder("resnet50", str(tmp_path / name))


def test_pickled_code_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload(tmp_path / "trace")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth .*Python objects besides tensors.* refused"):
        load_encoder("resnet50", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "trace").exists()


def test_a_list_is_not_weights(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds a list"):
        load_encoder("resnet50", str(tmp_path / "list.pth"))
