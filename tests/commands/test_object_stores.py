"""Commands on URLs of an S3 service: same results as with folders, and no harm done."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_proxy import Fault
from object_store import Bucket
from processes import call, pack

from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder
from a2s.storage import tensors
from a2s.storage.objects import cache, urls

if TYPE_CHECKING:
    from conftest import SceneFolders

RBD = ("--model", "rbd", "--workers", "0")
DATA, LABELS = "s3://bucket/data", "s3://bucket/labels"
SECRET = "hunter2"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def shards(files: dict[str, bytes]) -> dict[str, bytes]:
    """Tars, tables and manifests, without what depends on the paths of the inputs."""
    found = {name: data for name, data in files.items() if name.startswith("shard-")}
    unlike = {"settings": "", "manifest_sha256": ""}
    for name in [name for name in found if name.endswith(".json")]:
        found[name] = json.dumps({**json.loads(found[name]), **unlike}).encode()
    return found


def local(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another cache, with nothing in it."""
    number = len(list(tmp_path.glob("cache*")))
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / f"cache-{number}"))


@pytest.fixture
def data(scenes: SceneFolders, tmp_path: Path, bucket: Bucket) -> Path:
    """Data shards here, and the same in the store."""
    folder = pack(scenes.train, tmp_path / "data")
    bucket.upload(folder, "data")
    return folder


def test_shards_from_a_store_into_a_store(
    scenes: SceneFolders, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(scenes.images, "photos")
    bucket.upload(scenes.masks, "masks")
    command = ["shard", "--shard-size", "3", "--workers", "0"]
    there = ["s3://bucket/photos", "--masks", "s3://bucket/masks", "--out", DATA]
    done = call(*command, *there)
    assert done.code == 0, done.stderr
    assert "to s3://bucket/data\nnext: a2s stage1 --data s3://bucket/data" in done.stdout
    here = [scenes.images, "--masks", scenes.masks, "--out", tmp_path / "here"]
    assert call(*command, *here).code == 0
    assert shards(bucket.files("data")) == shards(local(tmp_path / "here"))
    everything = b"".join(bucket.files("data").values())
    assert str(tmp_path).encode() not in everything
    # On another machine there is nothing to do, and only what was added is missed.
    fresh_machine(tmp_path, monkeypatch)
    assert "is done already" in call(*command, *there).stdout
    bucket.put("photos/new.jpg", next(scenes.images.iterdir()).read_bytes())
    added = call(*command, *there)
    assert added.code == 2
    assert "such as s3://bucket/photos/new.jpg" in added.stderr


def test_a_tar_and_a_list_of_a_store_are_packed(
    scenes: SceneFolders, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip
    import tarfile

    images = sorted(scenes.images.iterdir())
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in images[:2]:
            tar.add(path, path.name)
    bucket.put("x.tar.gz", gzip.compress((tmp_path / "x.tar").read_bytes()))
    for path in images[2:]:
        bucket.put(f"photos/{path.name}", path.read_bytes())
    lines = "".join(f"{path.name}\n" for path in images[2:])
    bucket.put("photos/list.txt", lines.encode())
    inputs = ["s3://bucket/x.tar.gz", "s3://bucket/photos/list.txt"]
    bucket.proxy.faults = [Fault("cut", "GET", "x.tar.gz"), Fault("503", "GET", "scene")]
    bucket.put("conf/small.yaml", b"shard:\n  shard_size: 2\n  workers: 0\n")
    done = call("shard", *inputs, "--out", DATA, "--config", "s3://bucket/conf/small.yaml")
    assert done.code == 0, done.stderr
    assert "wrote 4 images in 2 shards" in done.stdout
    # What was unpacked is gone with the machine; it is unpacked again.
    bucket.delete("data/shard-000000.json")
    fresh_machine(tmp_path, monkeypatch)
    done = call("shard", *inputs, "--out", DATA, "--shard-size", "2", "--workers", "0")
    assert "wrote 4 images in 2 shards" in done.stdout, done.stderr


def test_labels_of_a_store_are_those_of_a_folder(
    data: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a cache that holds two of three shards, and a store that stumbles."""
    monkeypatch.setenv(cache.LIMIT, str(70_000 / 2**30))
    bucket.proxy.faults = [
        Fault("500", "GET", "shard-000001.tar"),
        Fault("503", "GET", "list-type", times=2),
        Fault("cut", "GET", "shard-000002"),
        Fault("lost answer", "PUT", "labels/shard-000000.json"),
        Fault("lost request", "PUT", "labels/shard-000001.tar"),
        Fault("503", "PUT", "labels/config.yaml"),
    ]
    done = call("label", *RBD, "--data", DATA, "--out", LABELS)
    assert done.code == 0, done.stderr
    assert not any(fault.times for fault in bucket.proxy.faults)
    assert call("label", *RBD, "--data", data, "--out", tmp_path / "labels").code == 0
    assert shards(bucket.files("labels")) == shards(local(tmp_path / "labels"))
    blobs = [path for path in (urls.root() / "blobs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in blobs) < 100_000
    assert not (urls.root() / "work/s3/bucket/labels").exists()


@pytest.mark.slow
def test_looking_at_labels_of_a_store(
    data: Path, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("label", *RBD, "--data", DATA, "--out", LABELS).code == 0
    fresh_machine(tmp_path, monkeypatch)
    assert "finished" in call("status", LABELS).stdout
    assert "3 shards" in call("verify", LABELS).stdout
    done = call("report", LABELS)
    assert done.code == 0, done.stderr
    assert b"</html>" in bucket.get("labels/report.html")
    done = call("report", LABELS, "--out", "s3://bucket/pages/x.html")
    assert done.code == 0, done.stderr
    assert bucket.get("pages/x.html").startswith(b"<!")
    export = ["export", LABELS, "--data", DATA, "--workers", "0", "--format", "coco"]
    done = call(*export, "--out", "s3://bucket/coco")
    assert done.code == 0, done.stderr
    assert "export.json" in bucket.files("coco")
    tar = bytearray(bucket.get("labels/shard-000001.tar"))
    tar[700] ^= 1
    bucket.put("labels/shard-000001.tar", bytes(tar))
    done = call("verify", LABELS)
    assert done.code == 3
    assert "s3://bucket/labels/shard-000001.tar: does not match" in done.stdout
    done = call("verify", LABELS, "--repair")
    assert "labels/shard-000001.json" not in bucket.keys("labels/shard")
    assert call("label", *RBD, "--data", DATA, "--out", LABELS).code == 0
    assert call("verify", LABELS).code == 0


def test_masks_of_a_store(
    scenes: SceneFolders, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(scenes.images, "photos")
    bucket.upload(scenes.masks, "masks")
    predict = ["predict", "s3://bucket/photos", *RBD, "--out", "s3://bucket/preds", "--overlay"]
    done = call(*predict)
    assert done.code == 0, done.stderr
    fresh_machine(tmp_path, monkeypatch)
    assert "done already, nothing new" in call(*predict).stdout
    assert "finished" in call("status", "s3://bucket/preds").stdout
    assert call("predict", scenes.images, *RBD, "--out", tmp_path / "preds").code == 0
    found = bucket.files("preds")
    for path in (tmp_path / "preds").glob("*.png"):
        assert found[path.name] == path.read_bytes()
    # One that is gone is made again.
    bucket.delete(f"preds/{next(scenes.images.iterdir()).stem}.png")
    fresh_machine(tmp_path, monkeypatch)
    assert "(maps, overlays; 1 new)" in call(*predict).stdout
    pair = ["--pred", "s3://bucket/preds", "--truth", "s3://bucket/masks"]
    done = call("evaluate", *pair, "--out", "s3://bucket/scores", "--workers", "0")
    assert done.code == 0, done.stderr
    pair = ["--pred", tmp_path / "preds", "--truth", scenes.masks]
    assert call("evaluate", *pair, "--out", tmp_path / "scores", "--workers", "0").code == 0
    here = json.loads((tmp_path / "scores/scores.json").read_text())
    there = json.loads(bucket.get("scores/scores.json"))
    assert there["mae"] == here["mae"]
    assert there["weighted_f"] == here["weighted_f"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", *RBD, "--data", DATA, "--out", "https://h/x"], "can only be read"),
        (["label", *RBD, "--data", "s3://none/x", "--out", "x"], "there is no such bucket"),
        (["label", *RBD, "--data", "x", "--out", "s3://none/x"], "there is no such bucket"),
        (["doctor", "--out", DATA], "is a URL; give a folder of this machine"),
        (["ablate", "tab4", "--out", DATA], "is a URL; give a folder of this machine"),
        (["label", *RBD, "--data", "ftp://h/x", "--out", "x"], "is a URL; give a local path"),
        (["label", *RBD, "--data", "s3://bucket/none", "--out", "x"], "no finished shards"),
        (["predict", "s3://bucket/none", *RBD, "--out", "x"], "no such file or folder"),
        (["shard", DATA, "--out", "s3://bucket/x"], "ranks on several"),
        (["stage1", "--data", DATA, "--out", "x", "--cache-dir", LABELS], "--cache-dir"),
        (["label", *RBD, "--data", DATA, "--out", "s3:bucket/l"], "is no URL; write s3://"),
        (["label", *RBD, "--data", DATA, "--out", "s3://"], "s3: is no URL"),
        (["predict", "s3:/bucket/x.png", *RBD, "--out", "x"], "is no URL; write s3://"),
        (["label", *RBD, "--data", f"s3://me:{SECRET}@b/x", "--out", "x"], "no user or password"),
        (["predict", f"https://me:{SECRET}@h/x.png", *RBD, "--out", "x"], "no user or password"),
        (["status", f"s3://me:{SECRET}@bucket/x"], "no user or password"),
        (["status", "S3:///bucket//none/"], "s3://bucket/none: no such folder"),
    ],
)
def test_what_does_not_work_is_one_line_and_no_folder(
    arguments: list[str],
    message: str,
    bucket: Bucket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "shard":
        for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}.items():
            monkeypatch.setenv(name, value)
    done = call(*arguments)
    assert done.code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path) not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "x"}
    assert bucket.keys() == []


def test_an_object_is_no_folder(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    before = bucket.keys()
    config = f"{DATA}/config.yaml"
    done = call("label", *RBD, "--data", config, "--out", tmp_path / "labels")
    assert f"label: {config} is a file; give the folder that contains it" in done.stderr
    done = call("label", *RBD, "--data", DATA, "--out", config)
    assert (done.code, f"{config}: is an object, not a folder" in done.stderr) == (2, True)
    # Not even a lock.
    assert bucket.keys() == before


def test_shards_and_a_model_of_a_web_server(
    data: Path, scenes: SceneFolders, tmp_path: Path
) -> None:
    """One that lists folders as pages, and answers no request for a part of a file."""
    detector = Detector(build_encoder("mobilenet_v2"), width=16)
    metadata = {**detector.spec(), "image_size": "64", "resize_filter": "bilinear"}
    tensors.write(tmp_path / "data/m.safetensors", detector.state_dict(), metadata=metadata)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/data"
        done = call("label", *RBD, "--data", address, "--out", tmp_path / "there")
        assert done.code == 0, done.stderr
        masks = call(
            *("predict", scenes.images, "--model", f"{address}/m.safetensors"),
            *("--out", tmp_path / "masks", "--workers", "0"),
        )
        server.shutdown()
    assert masks.code == 0, masks.stderr
    assert len(list((tmp_path / "masks").glob("*.png"))) == 4
    assert call("label", *RBD, "--data", data, "--out", tmp_path / "here").code == 0
    assert shards(local(tmp_path / "there")) == shards(local(tmp_path / "here"))
