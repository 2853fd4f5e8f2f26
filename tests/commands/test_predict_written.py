"""What `a2s predict` wrote earlier: damaged files are made again, and `a2s verify` finds them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from labelling_run import write_model
from pictures import photograph

from a2s.commands import predict, verify
from a2s.config.checks import VerifyConfig
from a2s.config.commands import PredictConfig
from a2s.storage import written
from a2s.storage.written import crc32_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": lambda path: flip(path, 60),
    "another picture": lambda path: photograph(seed=9).convert("L").save(path),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_files_that_are_not_what_was_written_are_made_again(
    made: Path, model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(made, tmp_path / "made") / "out"
    before = {path.name: path.read_bytes() for path in out.glob("?.*")}
    assert len(before) == 6
    # One that needs the network, and two that are drawn of the map.
    for name in ("a.png", "b.cutout.png", "b.overlay.jpg"):
        DAMAGES[kind](out / name)
    assert again(out, model) == 0
    said = capsys.readouterr().err
    assert "predict: 3 files are not what this job wrote (a.png, b.overlay.jpg, b.cut" in said
    assert {path.name: path.read_bytes() for path in out.glob("?.*")} == before
    assert again(out, model) == 0
    assert "done already, nothing new" in capsys.readouterr().out


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs a and b, and their maps, cut-outs and overlays."""
    root = tmp_path_factory.mktemp("made")
    (root / "in").mkdir()
    for seed, name in enumerate("ab"):
        photograph(seed=seed).save(root / "in" / f"{name}.png")
        os.utime(root / "in" / f"{name}.png", (0, 0))
    assert again(root / "out", model) == 0
    return root


def again(out: Path, model: Path) -> int:
    values = {"cutout": True, "overlay": True, "workers": 0}
    config = PredictConfig(model=model, images=(str(out.parent / "in"),), out=out, **values)
    return predict.run(config)


def test_a_damaged_map_of_an_image_that_is_unreadable_now_does_not_stay(
    made: Path, model: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(made, tmp_path / "made") / "out"
    DAMAGES["truncated"](out / "a.png")
    (out.parent / "in" / "a.png").write_bytes(b"nothing")
    os.utime(out.parent / "in" / "a.png", (0, 0))
    assert again(out, model) == 3
    assert not (out / "a.png").exists()


def test_a_copy_of_a_folder_is_read_once(
    made: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(made, tmp_path / "made") / "out"
    files = [*out.glob("?.*")]
    for path in files:
        os.utime(path, (1e9, 1e9))
    read = []
    monkeypatch.setattr(written, "crc32_of", lambda path: read.append(path) or crc32_of(path))
    assert again(out, model) == 0
    assert sorted(read) == sorted(files)
    assert again(out, model) == 0
    assert len(read) == len(files)


def test_a_list_without_checksums_gets_them(
    made: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an older version, or of a call that was killed before it noted what it had written."""
    out = shutil.copytree(made, tmp_path / "made") / "out"
    complete = (out / "written.txt").read_text().splitlines()
    begun = [line for line in complete if not line.startswith("file ")]
    (out / "written.txt").write_text("\n".join(begun) + "\n")
    dates = {path.name: path.stat().st_mtime_ns for path in out.glob("?.*")}
    assert again(out, model) == 0
    assert sorted((out / "written.txt").read_text().splitlines()) == sorted(complete)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("?.*")} == dates
    # Only what is whole counts as written.
    (out / "written.txt").write_text("\n".join(begun) + "\n")
    for name in ("a.png", "a.overlay.jpg", "b.cutout.png"):
        DAMAGES["truncated"](out / name)
    assert again(out, model) == 0
    assert "predict: 3 files are not what this job wrote" in capsys.readouterr().err


def test_verify_finds_every_flipped_bit(
    made: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(made, tmp_path / "made") / "out"
    assert verified(out) == 0
    assert "verify: 0 shards and 0 commits, 6 other files of" in capsys.readouterr().out
    before = {path: path.read_bytes() for path in out.glob("?.*")}
    for path, data in before.items():
        for position in range(0, len(data), len(data) // 6):
            flip(path, position)
            assert verified(out) == 3, (path, position)
            assert f"{path}: does not match its checksum in written.txt" in capsys.readouterr().out
            path.write_bytes(data)
    # It deletes what is damaged, and the command makes it again.
    flip(out / "a.png", 70)
    (out / "b.cutout.png").unlink()
    assert verified(out, repair=True) == 3
    said = capsys.readouterr().out
    assert f"{out / 'b.cutout.png'}: is missing" in said
    assert f"deleted 2 damaged files in {out}; repeat the a2s predict command of {out}" in said
    assert again(out, model) == 0
    assert {path: path.read_bytes() for path in out.glob("?.*")} == before
    assert verified(out) == 0


def verified(folder: Path, *, repair: bool = False) -> int:
    return verify.run(VerifyConfig(folder=folder, repair=repair))


def test_verify_names_files_without_checksums_and_a_damaged_list(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(made, tmp_path / "made") / "out"
    lines = (out / "written.txt").read_text().splitlines(keepends=True)
    some = [line for line in lines if not line.startswith("file b%2E")]
    (out / "written.txt").write_text("".join(some))
    assert verified(out) == 3
    assert "3 files have no checksum in written.txt; repeat the command" in capsys.readouterr().out
    (out / "written.txt").write_text("".join([*lines, "file ../../x 1 2 3\n"]))
    assert verified(out) == 3
    assert "written.txt: cannot be read (key '../../x' is malformed" in capsys.readouterr().out
    (out / "written.txt").write_text("".join(lines))
    for content in ("[]", "", "{"):
        (out / "resolved.json").write_text(content)
        assert verified(out) == 3
        assert "resolved.json: not what a command resolved" in capsys.readouterr().out
    (out / "written.txt").write_text("x\n")
    assert verified(out, repair=True) == 3
    said = capsys.readouterr().out
    assert "written.txt is damaged" in said
    assert "was kept: nothing else tells" in said
