"""Labelling from end to end: same bytes whoever does the work, and after every kind of stop."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from forkserver import Process
from labelling_run import config, encoded, shard_bytes, write_data, write_model
from PIL import Image
from processes import environment
from repository import REPO
from safetensors.torch import save_file

from a2s.commands import label
from a2s.config.base import RefineConfig
from a2s.data import images
from a2s.data.chunks import chunks
from a2s.data.index import Index
from a2s.data.keys import encode_key
from a2s.errors import A2SError, CheckpointError, ConfigError, DataError
from a2s.labels.making.gpu import load_activation
from a2s.labels.making.shards import COLUMNS
from a2s.models.saved import SavedNetwork
from a2s.parallel import pool

SIZES = [(40, 60), (60, 40), (1, 1), (1, 30), (64, 64), (33, 47), (50, 50)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two uneven shards with tiny images, one black, one damaged, and names that are not ASCII."""
    first = [(f"a/{n} \u00e9.x", encoded(*size, seed=n)) for n, size in enumerate(SIZES)]
    damaged = encoded(30, 30, seed=9)[:-40]
    second = [("b/good", encoded(30, 50, seed=8)), ("b/damaged", damaged)]
    return write_data(tmp_path_factory.mktemp("label") / "data", [first, second])


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with pool.session(workers=2):
        yield


@pytest.fixture(scope="module")
def reference(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels made in this process."""
    out = tmp_path_factory.mktemp("label") / "labels"
    assert label.run(config(model, data, out)) == 0
    return out


def test_labels_have_the_keys_and_sizes_of_the_images(data: Path, reference: Path) -> None:
    source, labels = Index.load(data), Index.load(reference)
    assert [shard.name for shard in labels.shards] == [shard.name for shard in source.shards]
    expected = [key for key in source.rows_by_key() if key != encode_key("b/damaged")]
    assert list(labels.rows_by_key()) == expected
    for key, row in labels.rows_by_key().items():
        with Image.open(io.BytesIO(labels.read(row))) as png:
            assert (png.format, png.mode) == ("PNG", "L")
        mask = images.decode_mask(labels.read(row))
        image = images.decode(source.read(source.rows_by_key()[key]))
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) <= {0, 255}
        assert labels.column("area_share")[row] == pytest.approx((mask > 0).mean())
        assert (labels.width_N[row], labels.height_N[row]) == mask.shape[::-1]


def test_quality_table_and_manifest(reference: Path, data: Path) -> None:
    table = pq.read_table(reference / "shard-000000.parquet")
    assert set(COLUMNS) < set(table.column_names)
    for name in ("area_share", "border_contact", "crf_agreement"):
        values = table[name].to_numpy()
        assert ((values >= 0) & (values <= 1)).all(), name
    for name in ("decision_margin", "sign_margin"):
        values = table[name].to_numpy()
        assert ((values >= 0) & (values <= 0.5)).all(), name
    manifest = json.loads((reference / "shard-000000.json").read_text())
    assert manifest["data_sha256"] == Index.load(data).shards[0].sha256
    assert manifest["num_empty"] == (table["area_share"].to_numpy() == 0).sum()


def test_a_damaged_image_is_listed_and_the_run_goes_on(reference: Path) -> None:
    (failure,) = map(json.loads, (reference / "failures.jsonl").read_text().splitlines())
    assert failure["key"] == encode_key("b/damaged")
    assert failure["reason"] in {"truncated", "damaged"}
    assert failure["path"].endswith("shard-000001.tar")


def test_two_ray_workers_make_the_same_bytes(
    model: Path, data: Path, reference: Path, ray_here: None, tmp_path: Path
) -> None:
    assert label.run(config(model, data, tmp_path / "labels", workers=2)) == 0
    assert shard_bytes(tmp_path / "labels") == shard_bytes(reference)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_another_batch_size_makes_the_same_activation_maps(
    batch_size: int, model: Path, data: Path
) -> None:
    index = Index.load(data)
    saved = SavedNetwork.find(model)
    activate = load_activation(saved, saved.trained_input, batch_size, None)

    def maps(size: int) -> dict[str, bytes]:
        return {
            chunk.part.key(row): theta.tobytes()
            for chunk in chunks(index, todo=[0, 1], size=size)
            for row, theta in activate(chunk).thetas.items()
        }

    assert len(maps(batch_size)) == len(SIZES) + 1
    assert maps(batch_size) == maps(3)


def test_a_shard_whose_images_were_all_quarantined_has_an_empty_label_shard(
    model: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", [[], [("a", encoded(20, 30, seed=1))]])
    settings = config(model, data, tmp_path / "labels")
    assert label.run(settings) == 0
    labels = Index.load(settings.out)
    assert labels.shard_sizes.tolist() == [0, 1]
    assert label.run(settings) == 0


def test_over_the_failure_rate_is_exit_code_3_each_time(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = config(model, data, tmp_path / "labels", max_failure_rate=0.1)
    assert label.run(strict) == 3
    assert label.run(strict) == 3
    assert "1 of 9 images failed, over the limit of 10.00%" in capsys.readouterr().out


def test_a_finished_folder_is_recognised_without_torch(
    model: Path, data: Path, reference: Path
) -> None:
    flags = ["--model", str(model), "--data", str(data), "--out", str(reference), "--batch-size=3"]
    code = (
        "import sys; from a2s.__main__ import run\n"
        f"assert run(['label', *{flags!r}, '--max-failure-rate', '0.5']) == 0\n"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    before = shard_bytes(reference)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, check=True, capture_output=True, text=True
    )
    assert time.monotonic() - started < 5
    assert "already done" in done.stdout
    assert "next: a2s stage2 --data" in done.stdout.splitlines()[-1]
    assert shard_bytes(reference) == before


def test_other_settings_in_the_same_folder_are_refused(
    model: Path, data: Path, reference: Path
) -> None:
    other = config(model, data, reference, refine=RefineConfig(max_side=32))
    with pytest.raises(ConfigError, match=r"refine\.max_side: 640 there, 32 now"):
        label.run(other)


def test_only_a_model_of_a2s_labels(model: Path, data: Path, tmp_path: Path) -> None:
    detector = tmp_path / "detector.safetensors"
    save_file({"w": torch.zeros(1)}, detector, {"kind": "classifier"})
    with pytest.raises(CheckpointError, match="is of kind classifier; labels come from a model"):
        label.run(config(detector, data, tmp_path / "labels"))
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be read"):
        label.run(config(garbage, data, tmp_path / "labels"))
    with pytest.raises(A2SError, match="nowhere"):
        label.run(config(tmp_path / "nowhere", data, tmp_path / "labels"))
    with pytest.raises(DataError, match="no finished shards"):
        label.run(config(model, tmp_path, tmp_path / "labels"))


def test_kill_9_and_the_same_command_again_make_the_same_labels(
    model: Path, tmp_path: Path
) -> None:
    shards = [
        [(f"{number}/{n}", encoded(90, 120, seed=10 * number + n)) for n in range(4)]
        for number in range(6)
    ]
    data = write_data(tmp_path / "data", shards)
    whole = tmp_path / "whole"
    assert label.run(config(model, data, whole, batch_size=2)) == 0

    out = tmp_path / "killed"
    command = ["label", "--model", str(model), "--data", str(data)]
    command += ["--out", str(out), "--workers", "0", "--batch-size", "2"]
    process = Process(command, env=environment(), hold_at="shard-000001.json")
    process.wait_until_held()
    process.kill()
    process.communicate()
    num_done = len(list(out.glob("shard-*.json")))
    assert 1 <= num_done < 6
    again = Process(command, env=environment())
    assert again.wait(120) == 0, again.communicate()
    assert shard_bytes(out) == shard_bytes(whole)


def test_an_image_of_a_repaired_shard_is_labelled(model: Path, tmp_path: Path) -> None:
    samples = [(f"{number}", encoded(30, 40, seed=number)) for number in range(3)]
    data = write_data(tmp_path / "data", [samples[:2], samples[2:]])
    tar = data / "shard-000000.tar"
    whole = tar.read_bytes()
    at = int(Index.load(data).offset_N[1]) + 40
    tar.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    out = tmp_path / "labels"
    assert label.run(config(model, data, out)) == 0
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert (failure["key"], failure["reason"]) == ("1", "bad_checksum")
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    # As long as it is damaged the label shard is done.
    assert label.run(config(model, data, out)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")} == before
    tar.write_bytes(whole)
    assert label.run(config(model, data, out)) == 0
    assert (out / "failures.jsonl").read_text() == ""
    assert list(Index.load(out).rows_by_key()) == ["0", "1", "2"]
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")}
    assert after["shard-000001.tar"] == before["shard-000001.tar"]
