"""Labelling in parts, on devices, by one backend to the end, and what it says about the time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from labelling_run import config, encoded, shard_bytes, write_data, write_model
from repository import REPO

from a2s.commands import label
from a2s.config.base import RefineConfig, shard_ranges
from a2s.data import images
from a2s.data.index import Index
from a2s.errors import ConfigError
from a2s.parallel import pool, ray_session
from a2s.storage import lock


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of three images."""
    shards = [
        [(f"{number}/{n}", encoded(50, 70, seed=10 * number + n + 1)) for n in range(3)]
        for number in range(5)
    ]
    return write_data(tmp_path_factory.mktemp("choices") / "data", shards)


@pytest.fixture(scope="module")
def reference(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("choices") / "labels"
    assert label.run(config(model, data, out)) == 0
    return out


def test_shards_are_done_in_parts_by_several_processes_and_add_up(
    model: Path, data: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    assert label.run(config(model, data, out, shards="3-9")) == 0
    assert sorted(path.stem for path in out.glob("*.json") if "shard" in path.name) == [
        "shard-000003",
        "shard-000004",
    ]
    assert "6 labels in 2 of 5 shards" in capsys.readouterr().out
    hold = (
        "import sys\n"
        "from pathlib import Path\n"
        "from a2s.storage.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'label', parts=[range(0, 2)]):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPO,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=r"some of the shards 1-2 .* by another process"):
            label.run(config(model, data, out, shards="1-2"))
        with pytest.raises(ConfigError, match="is in use by"):
            label.run(config(model, data, out))
        assert label.run(config(model, data, out, shards="2")) == 0
        other.communicate("")
    assert label.run(config(model, data, out)) == 0
    assert shard_bytes(out) == shard_bytes(reference)


def test_a_limit_labels_the_first_images_and_is_another_label_set(
    model: Path, data: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels"
    assert label.run(config(model, data, out, limit=4)) == 0
    labels, everything = Index.load(out), Index.load(reference)
    assert labels.shard_sizes.tolist() == [3, 1]
    assert [labels.read(row) for row in range(4)] == [everything.read(row) for row in range(4)]
    with pytest.raises(ConfigError, match="limit: 4 there, None now"):
        label.run(config(model, data, out))


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    model: Path, data: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "labels"
    assert label.run(config(model, data, out, dry_run=True, shards="0-1,4")) == 0
    assert "would label 9 images in 3 of 5 shards" in capsys.readouterr().out
    assert not out.exists()
    assert label.run(config(model, data, reference, dry_run=True)) == 0
    assert "would label 0 images in 0 of 5 shards" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"refine\.median: 7 there, 3 now"):
        label.run(config(model, data, reference, dry_run=True, refine=RefineConfig(median=3)))


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("7", [range(7, 8)]), ("0-99", [range(100)]), ("1, 3-4", [range(1, 2), range(3, 5)])],
)
def test_ranges_of_shards(text: str, ranges: list[range]) -> None:
    assert shard_ranges(text) == ranges


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1;2"])
def test_what_is_no_range_is_refused(text: str, model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shards"):
        config(model, data, tmp_path, shards=text)


def test_shards_that_are_not_there_are_refused(model: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--shards 5: .* has shards 0-4"):
        label.run(config(model, data, tmp_path / "labels", shards="5"))


def test_auto_is_resolved_once_and_kept_when_the_device_changes(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "labels"
    assert label.run(config(model, data, out, shards="0")) == 0
    assert "CRF by numba" in capsys.readouterr().err
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["identity"]["refine"]["backend"] == "numba"
    # The next part is done where there is a GPU: still the same backend.
    monkeypatch.setattr(pool, "has_gpu", lambda address: True)
    assert label.run(config(model, data, out, shards="1")) == 0
    assert "CRF by numba" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"refine\.backend: numba there, pydensecrf now"):
        label.run(config(model, data, out, refine=RefineConfig(backend="pydensecrf")))


def test_threads_and_the_device_path_make_the_same_bytes(
    model: Path, data: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(pool, "num_cpus", lambda: 3)
    assert label.run(config(model, data, tmp_path / "threads")) == 0
    assert shard_bytes(tmp_path / "threads") == shard_bytes(reference)
    monkeypatch.setattr(pool, "has_gpu", lambda address: True)
    settings = config(
        model, data, tmp_path / "device", batch_size="auto", refine=RefineConfig(backend="numba")
    )
    assert label.run(settings) == 0
    out = capsys.readouterr().out
    assert "1 GPU processes: network" in out
    assert "3 CPU workers: decode" in out
    assert shard_bytes(tmp_path / "device") == shard_bytes(reference)
    assert json.loads((tmp_path / "device" / "resolved.json").read_text()) == {"batch_size": 1}


def test_the_crf_of_the_device_makes_the_labels_that_it_makes_alone(
    model: Path, data: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    torch_crf = {"refine": RefineConfig(backend="torch")}
    assert label.run(config(model, data, tmp_path / "alone", **torch_crf)) == 0
    monkeypatch.setattr(pool, "has_gpu", lambda address: True)
    assert label.run(config(model, data, tmp_path / "device", batch_size="auto", **torch_crf)) == 0
    assert "device refine" in capsys.readouterr().out
    assert shard_bytes(tmp_path / "device") == shard_bytes(tmp_path / "alone")
    # Another backend: the same labels but for single pixels.
    ours, numba = Index.load(tmp_path / "device"), Index.load(reference)
    pairs = [(ours.read(row), numba.read(row)) for row in range(len(ours))]
    masks = [tuple(map(images.decode_mask, pair)) for pair in pairs]
    assert max(np.count_nonzero(a != b) for a, b in masks) <= 4


@pytest.mark.slow
def test_devices_of_a_ray_session_make_the_same_bytes(
    model: Path, data: Path, reference: Path, tmp_path: Path
) -> None:
    import ray

    ray_session.create_private_token()
    # A GPU in name: what runs in its actor finds none and computes on the CPU.
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool, "has_gpu", lambda address: pool.num_gpus() > 0)
            settings = config(
                model,
                data,
                tmp_path / "labels",
                workers=2,
                batch_size="auto",
                refine=RefineConfig(backend="numba"),
            )
            assert label.run(settings) == 0
    finally:
        ray.shutdown()
    assert shard_bytes(tmp_path / "labels") == shard_bytes(reference)
    event = json.loads((tmp_path / "labels" / "metrics.jsonl").read_text().splitlines()[-1])
    assert event["GPU processes"]["stage_sec"]["network"] > 0
    assert event["CPU workers"]["waiting_sec"] >= 0


def test_the_log_names_rates_waiting_and_the_bottleneck(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert label.run(config(model, data, tmp_path / "labels")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("label: 15 images in")
    assert "images/s (each alone); busy" in lines[1]
    assert "waited" in lines[1]
    assert lines[2].startswith("label: bottleneck: ")
    event = json.loads((tmp_path / "labels" / "metrics.jsonl").read_text().splitlines()[-1])
    workers = event["CPU workers"]
    assert event["backend"] == "numba"
    assert sum(workers["stage_sec"].values()) > 0
    assert 0 < workers["busy_share"] <= 1


def test_a_ranged_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, os, time\n"
        "from pathlib import Path\n"
        "from a2s.storage.lock import hold\n"
        "with hold(Path(sys.argv[1]), 'label', parts=[range(9)]):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPO
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    process.stdout.close()
    started = time.monotonic()
    with lock.hold(tmp_path, "label", parts=[range(9)]):
        assert time.monotonic() - started < 5
