"""What `a2s export` wrote earlier: damaged files are made again, and `a2s verify` finds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from export_run import Folders, export, write_folders, written
from processes import call

from a2s.storage.written import WrittenFiles


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return write_folders(tmp_path_factory.mktemp("export"))


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def drop(path: Path) -> None:
    path.unlink()


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "missing": drop,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit": lambda path: flip(path, 20),
}


@pytest.mark.parametrize("form", ["coco", "hf"])
def test_damaged_files_are_made_again(form: str, folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(folders, out, form).code == 0
    before = written(out)
    listed = sorted(file.key for file in WrittenFiles(out))
    assert len(listed) == len(before)
    pictures = sorted(name for name in before if name.endswith((".png", ".jpg", ".parquet")))
    for number, damage in enumerate(DAMAGES.values()):
        damage(out / ("labels.jsonl" if number % 2 else pictures[0]))
        again = export(folders, out, form)
        assert again.code == 0, again.stderr
        assert "1 files of" in again.stderr
        assert "done already" not in again.stdout
        assert written(out) == before
    assert call("verify", out).code == 0
    assert "done already" in export(folders, out, form).stdout


def test_verify_finds_every_flipped_bit(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(folders, out, "voc").code == 0
    for name, data in written(out).items():
        if not data:
            continue
        flip(out / name, len(data) // 2)
        done = call("verify", out)
        assert done.code == 3, name
        assert f"{out / name}: does not match its checksum in written.txt" in done.stdout
        (out / name).write_bytes(data)
    flip(out / "labels.jsonl", 5)
    done = call("verify", out, "--repair")
    assert f"deleted 1 damaged files in {out}; repeat the a2s export command" in done.stdout
    assert export(folders, out, "voc").code == 0
    assert call("verify", out).code == 0


def test_a_label_that_fails_in_place_of_a_damaged_file_is_listed(
    folders: Folders, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert export(folders, out, "voc").code == 0
    name = next(name for name in written(out) if name.endswith(".png"))
    as_folder(out / name)
    (out / name / "x").touch()
    done = export(folders, out, "voc")
    assert done.code == 3
    assert "unwritable_name" in (out / "failures.jsonl").read_text()
    shutil.rmtree(out / name)
    assert export(folders, out, "voc").code == 0
    assert (out / name).is_file()


def test_an_export_without_a_list_is_done_as_before(folders: Folders, tmp_path: Path) -> None:
    """Of an older version; where the parts are still there, the call was killed before the list."""
    out = tmp_path / "out"
    assert export(folders, out, "png").code == 0
    complete = (out / "written.txt").read_bytes()
    (out / "written.txt").unlink()
    assert "done already" in export(folders, out, "png").stdout
    assert not (out / "written.txt").exists()
    (out / "written.txt").write_bytes(b"x\n")
    done = export(folders, out, "png")
    assert (done.code, "written.txt is damaged" in done.stderr) == (2, True)
    (out / "written.txt").write_bytes(complete)
    assert "done already" in export(folders, out, "png").stdout
