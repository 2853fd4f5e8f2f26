"""`a2s verify`: every flipped bit is found and named, and a repair makes the same bytes again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from label_shards import write_labels
from processes import pack

from a2s.__main__ import run
from a2s.errors import CheckpointError, ConfigError, StorageError
from a2s.labels.store.writer import kept_manifests
from a2s.storage.files import read_json

SMALL = "--encoder.name mobilenet_v2 --image-size 32 --batch-size 4 --loader-workers 0"


@pytest.fixture(scope="module")
def made(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, labels, and a stage-2 run of three epochs that corrects labels from the second on."""
    root = tmp_path_factory.mktemp("verify")
    data = pack(scenes.train, root / "data")
    write_labels(data, root / "labels")
    assert train(root) == 0
    return root


def train(root: Path) -> int:
    command = ["stage2", "--data", str(root / "data"), "--labels", str(root / "labels")]
    command += [*SMALL.split(), "--out", str(root / "s2"), "--epochs", "3", "--warm-epochs", "1"]
    return run([*command, "--commit-every", "1"])


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "root")


def flip(path: Path, position: float = 0.6) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)


def test_intact_folders_are_read_to_the_last_byte(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(made)]) == 0
    out = capsys.readouterr().out
    num_shards = sum(1 for _ in made.rglob("shard-*.json"))
    assert f"{num_shards:,} shards and 2 commits of {made} read, 0 damaged" in out


def checksummed(root: Path) -> list[Path]:
    """Files that a checksum covers: of shards, checkpoints and label generations."""
    kinds = ("shard-*.tar", "shard-*.parquet", "*.safetensors", "state.json", "*.rows", "*.table")
    return sorted(path for kind in kinds for path in root.rglob(kind))


def test_a_flipped_bit_anywhere_is_found(made: Path, tmp_path: Path) -> None:
    files = checksummed(made)
    assert {path.suffix for path in files} == {
        *(".tar", ".parquet", ".safetensors", ".json", ".rows", ".table")
    }
    copy = shutil.copytree(made, tmp_path / "copy")
    missed = []
    for path in files:
        here = copy / path.relative_to(made)
        flip(here)
        # The file's own folder of shards, or its run.
        folder = here.parent
        while not (next(folder.glob("shard-*.json"), None) or (folder / "commits").is_dir()):
            folder = folder.parent
        if run(["verify", str(folder)]) != 3:
            missed.append(here)
        shutil.copy(path, here)
    assert [path for path in missed if path.relative_to(copy) not in unnamed(made)] == []


def unnamed(root: Path) -> set[Path]:
    """Label files of the run that no commit names any more; they are no part of it."""
    store = root / "s2" / "labels"
    named: set[Path] = set()
    for name in kept_manifests(root / "s2"):
        manifest = read_json(store / name)
        named |= {store / file["name"] for file in manifest["files"]}
        named |= {store / manifest["table"]["name"]} if "table" in manifest else set()
    assert named, "the run corrects labels"
    files = {*store.rglob("*.rows"), *store.rglob("*.table")}
    return {path.relative_to(root) for path in files - named}


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_repaired_shard_has_the_bytes_that_it_had(
    scenes, root: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "packed"
    command = ["shard", str(scenes.train), "--out", str(out), "--shard-size", "3"]
    command += ["--workers", "0"]
    assert run(command) == 0
    before = {path.name: path.read_bytes() for path in out.glob("shard-*")}
    flip(out / f"shard-000001{suffix}")
    assert run(["verify", str(out)]) == 3
    said = capsys.readouterr().out
    assert f"shard-000001{suffix}: does not match its checksum" in said
    assert "--repair" in said
    assert run(["verify", str(out), "--repair"]) == 3
    assert f"repeat the a2s shard command of {out}" in capsys.readouterr().out
    assert run(command) == 0
    assert {path.name: path.read_bytes() for path in out.glob("shard-*")} == before
    assert run(["verify", str(out)]) == 0


def test_a_damaged_commit_goes_back_to_the_one_before(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = sorted((root / "s2" / "commits").glob("*.json"))
    flip(root / "s2" / "checkpoints" / last.stem / "model.safetensors")
    assert run(["verify", str(root / "s2"), "--repair"]) == 3
    assert f"deleted {last.name}" in capsys.readouterr().out
    assert (first.exists(), last.exists()) == (True, False)
    assert run(["verify", str(root / "s2")]) == 0
    # The only intact commit is never deleted.
    flip(root / "s2" / "checkpoints" / first.stem / "model.safetensors")
    assert run(["verify", str(root / "s2"), "--repair"]) == 3
    assert "was kept" in capsys.readouterr().out
    assert first.exists()


def test_an_unfinished_shard_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = sorted((root / "data").glob("shard-*.json"))[-1]
    manifest.unlink()
    if next((root / "data").glob("shard-*.json"), None) is None:
        pytest.fail("the test needs two shards")
    for suffix in (".tar", ".parquet"):
        assert run(["verify", str(root / "data")]) == 3
        assert "1 shards are not finished" in capsys.readouterr().out
        # Also where nothing of it is left.
        manifest.with_suffix(suffix).unlink()
    assert run(["verify", str(root / "data")]) == 3


@pytest.mark.parametrize("which", ["data/shard-*.json", "s2/commits/*.json"])
def test_a_folder_in_the_place_of_a_file_is_damage(
    root: Path, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = max(root.glob(which))
    path.unlink()
    path.mkdir()
    assert run(["verify", str(root)]) == 3
    assert f"{path}: not a regular file" in capsys.readouterr().out
    assert run(["verify", str(root), "--repair"]) == 3
    assert f"{path} was kept: it is a folder" in capsys.readouterr().out
    assert path.is_dir()


@pytest.mark.parametrize("suffix", [".tar", ".parquet"])
def test_a_finished_run_makes_damaged_rectified_labels_again(root: Path, suffix: str) -> None:
    """Also without a2s verify: the command looks at sizes and checksums."""
    file = root / "s2" / "rectified" / f"shard-000001{suffix}"
    before = file.read_bytes()
    file.write_bytes(before[:-600])
    assert train(root) == 0
    assert file.read_bytes() == before


def test_a_finished_run_does_not_pass_with_a_damaged_model(root: Path) -> None:
    flip(max(root.glob("s2/checkpoints/*")) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        train(root)


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "commits":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"commits cannot be listed \(Permission denied\)"):
        run(["verify", str(root)])


def test_what_cannot_be_verified_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        run(["verify", str(tmp_path / "nothing")])
    with pytest.raises(ConfigError, match="holds neither shards nor runs"):
        run(["verify", str(tmp_path)])
