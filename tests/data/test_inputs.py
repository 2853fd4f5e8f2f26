"""Inputs of `a2s shard`: which images are found in folders, lists and tars, keys, order."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pyarrow.compute as pc
import pytest

from a2s.data.inputs import FoundImages, collect
from a2s.data.shards import ShardWriter
from a2s.errors import ConfigError, DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def found(tmp_path: Path, *inputs: object, masks: Path | None = None) -> FoundImages:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return collect([str(source) for source in inputs], masks=masks, out=out)


def keys(result: FoundImages) -> list[str]:
    return result.images["key"].to_pylist()


def reasons(lines: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(line["key"], line["reason"]) for line in lines]


def test_folders_are_read_recursively_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path / "in", "b.jpg", "a/z.PNG", "a/b c.webp", "ü/é.tif", "a.x.bmp", "n.txt", "raw")
    touch(tmp_path / "in", ".hidden.jpg", ".git/x.jpg", "a/._b.jpg")
    result = found(tmp_path, tmp_path / "in")
    assert keys(result) == ["%C3%BC/%C3%A9", "a%2Ex", "a/b%20c", "a/z", "b"]
    hidden = {"hidden": 2, "hidden folders": 1}
    assert result.skipped == {".txt": 1, "without suffix": 1, **hidden}
    assert result.failures == []


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path / "in", os.fsdecode(b"a\xff.jpg"))
    result = found(tmp_path, tmp_path / "in")
    assert keys(result) == ["a%FF"]
    assert Path(os.fsdecode(result.images["path"][0].as_py())).read_bytes() == b"x"


def test_links_are_followed_except_into_a_cycle(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a/b/1.jpg")
    touch(tmp_path / "else", "2.jpg")
    (tmp_path / "in/a/b/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/a/self").symlink_to(tmp_path / "in/a/self")
    (tmp_path / "in/link").symlink_to(tmp_path / "else")
    assert keys(found(tmp_path, tmp_path / "in")) == ["a/b/1", "link/2"]


def test_output_and_masks_folders_are_excluded(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "masks/1.png", "out/9.jpg")
    result = found(tmp_path, tmp_path, masks=tmp_path / "masks")
    assert keys(result) == ["1"]
    assert result.images["mask_path"].null_count == 0


def test_duplicate_keys_are_failures(tmp_path: Path) -> None:
    touch(tmp_path / "one", "a.jpg", "a.png", "b.jpg")
    touch(tmp_path / "two", "b.png", "c.png")
    result = found(tmp_path, tmp_path / "one", tmp_path / "two")
    assert keys(result) == ["a", "b", "c"]
    assert reasons(result.failures) == [("a", "duplicate_key"), ("b", "duplicate_key")]
    assert [Path(line["path"]).name for line in result.failures] == ["a.png", "b.png"]
    swapped = found(tmp_path, tmp_path / "two", tmp_path / "one")
    assert [Path(line["path"]).name for line in swapped.failures] == ["a.png", "b.jpg"]


def test_masks_are_paired_by_key(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "b.jpg", "sub/c.jpg")
    touch(tmp_path / "masks", "0.png", "b.png", "b.bmp", "sub/c.png", "c.png")
    result = found(tmp_path, tmp_path / "in", masks=tmp_path / "masks")
    names = [path and os.fsdecode(path) for path in result.images["mask_path"].to_pylist()]
    folder = f"{tmp_path}/masks"
    assert names == [None, f"{folder}/b.bmp", f"{folder}/sub/c.png"]
    assert reasons(result.stray_masks) == [
        ("0", "mask_without_image"),
        ("c", "mask_without_image"),
        ("b", "duplicate_mask"),
    ]


def by_pattern(tmp_path: Path, pattern: str, masks: str = "masks") -> dict[str, str | None]:
    """Key of every image, and the path of its mask below `tmp_path`."""
    (tmp_path / "out").mkdir(exist_ok=True)
    result = collect(
        [str(tmp_path / "in")], masks=tmp_path / masks, out=tmp_path / "out", mask_pattern=pattern
    )
    paths = result.images["mask_path"].to_pylist()
    shown = [path and os.path.relpath(os.fsdecode(path), tmp_path) for path in paths]
    return dict(zip(keys(result), shown, strict=True))


def test_masks_of_other_names_are_paired_by_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "sub/b.jpg")
    touch(tmp_path / "masks", "a_mask.png", "sub/b_mask.png", "notes_old.png")
    assert by_pattern(tmp_path, "{stem}_mask.png") == {
        "a": "masks/a_mask.png",
        "sub/b": "masks/sub/b_mask.png",
    }
    touch(tmp_path / "flat", "a.png", "b.png")
    assert by_pattern(tmp_path, "{name}.png", "flat") == {"a": "flat/a.png", "sub/b": "flat/b.png"}
    out = tmp_path / "out"
    inputs, masks = [str(tmp_path / "in")], tmp_path / "masks"
    result = collect(inputs, masks=masks, out=out, mask_pattern="{stem}_mask.png")
    assert [line["reason"] for line in result.stray_masks] == ["mask_of_other_name"]


def test_masks_beside_their_images_are_told_apart_by_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "a-gt.png", "sub/b.png", "sub/b-gt.png", "sub/c.jpg")
    assert by_pattern(tmp_path, "{stem}-gt.png", "in") == {
        "a": "in/a-gt.png",
        "sub/b": "in/sub/b-gt.png",
        "sub/c": None,
    }


def test_an_input_elsewhere_keeps_files_that_are_named_like_masks(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "a-gt.png")
    touch(tmp_path / "more", "b.jpg", "b-gt.png")
    inputs = [str(tmp_path / "in"), str(tmp_path / "more")]
    out, pattern = tmp_path / "out", "{stem}-gt.png"
    out.mkdir()
    result = collect(inputs, masks=tmp_path / "in", out=out, mask_pattern=pattern)
    assert keys(result) == ["a", "b", "b-gt"]
    assert result.images["mask_path"].is_null().to_pylist() == [False, True, True]
    assert result.stray_masks == []


def test_masks_that_belong_to_no_image_are_refused_with_an_example(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg")
    touch(tmp_path / "masks", "a_mask.png")
    with pytest.raises(DataError, match=r"not one mask.*image a, mask a_mask.png.*'\{stem\}_mask"):
        found(tmp_path, tmp_path / "in", masks=tmp_path / "masks")
    with pytest.raises(DataError, match=r"not one mask belongs to an image by \{stem\}-gt.png"):
        by_pattern(tmp_path, "{stem}-gt.png")
    with pytest.raises(ConfigError, match="needs --masks"):
        collect([str(tmp_path / "in")], masks=None, out=tmp_path, mask_pattern="{stem}.png")


def test_lists(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "sub/b.jpg", "notes.md")
    (tmp_path / "in/list.txt").write_text("sub/b.jpg\n\na.jpg\nnotes.md\ngone.jpg\nsub\n")
    result = found(tmp_path, tmp_path / "in/list.txt")
    assert keys(result) == ["a", "gone", "sub/b"]
    assert result.skipped == {".md": 1}
    # A folder's images are lost, which counts in the exit code.
    ((name, said),) = [(Path(one["path"]).name, one["detail"]) for one in result.failures]
    assert (name, said.split(",")[0]) == ("sub", "is a folder")


@pytest.mark.parametrize(
    "text",
    [
        b"a.jpg\nsub/b.JPG\n",
        b"\xef\xbb\xbfa.jpg\r\nsub/b.JPG\r\n",
        "\ufeffa.jpg\r\nsub/b.JPG".encode("utf-16-le"),
        b"a\nsub/b\n",
        b"\xef\xbb\xbfa\rsub/b",
    ],
)
def test_lists_of_other_programs(text: bytes, tmp_path: Path) -> None:
    """Byte order marks, line ends of Windows, names without suffix as in PASCAL VOC."""
    touch(tmp_path / "in", "a.jpg", "sub/b.JPG")
    (tmp_path / "in/list.txt").write_bytes(text)
    result = found(tmp_path, tmp_path / "in/list.txt")
    assert keys(result) == ["a", "sub/b"]
    assert [Path(os.fsdecode(path)).is_file() for path in result.images["path"].to_pylist()] == [
        True,
        True,
    ]


def test_a_line_that_names_nothing_is_counted_and_a_list_of_them_refused(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jpg", "clip.gif")
    listed = tmp_path / "in/list.txt"
    listed.write_text("a\nb\nclip.gif\n")
    result = found(tmp_path, listed)
    assert keys(result) == ["a"]
    assert [(line["reason"], Path(line["path"]).name) for line in result.failures] == [
        ("unreadable", "b")
    ]
    assert result.skipped == {".gif": 1}
    listed.write_text("b\nc\n")
    with pytest.raises(DataError, match=r"not one of its 2 lines names an image; looked for .*/b;"):
        found(tmp_path, listed)


def test_jfif_is_jpeg(tmp_path: Path) -> None:
    touch(tmp_path / "in", "a.jfif", "b.JFIF")
    assert keys(found(tmp_path, tmp_path / "in")) == ["a", "b"]


def test_keys_of_a_list_are_relative_to_the_common_folder(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "x/a.jpg", "y/a.jpg")
    (tmp_path / "lists").mkdir()
    listed = tmp_path / "lists/all.txt"
    listed.write_text(f"{tmp_path}/photos/x/a.jpg\n../photos/y/a.jpg\n")
    assert keys(found(tmp_path, listed)) == ["x/a", "y/a"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_tars(tmp_path: Path, kind: str) -> None:
    touch(tmp_path / "in", "a b.jpg", "sub/c.png", "sub/c.mask.png", "x.pyd", "lone.mask.png")
    path = tmp_path / f"x.{kind}"
    with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as tar:
        tar.add(tmp_path / "in", arcname=".")
    result = found(tmp_path, path)
    assert keys(result) == ["a%20b", "sub/c"]
    assert result.images["mask_path"].is_null().to_pylist() == [True, False]
    assert reasons(result.stray_masks) == [("lone", "mask_without_image")]
    row = result.images.to_pylist()[1]
    with Path(os.fsdecode(row["path"])).open("rb") as file:
        file.seek(row["offset"])
        assert file.read(row["size"]) == b"x"


def test_a2s_shards_keep_their_keys(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        for key in ("a%20b", "c/d"):
            writer.add(key, {"jpg": b"1", "mask.png": b"2"})
    result = found(tmp_path, tmp_path / "shard-000000.tar")
    assert keys(result) == ["a%20b", "c/d"]
    assert result.images["mask_size"].to_pylist() == [1, 1]


def test_unsafe_and_truncated_tars_lose_only_bad_members(tmp_path: Path) -> None:
    touch(tmp_path / "in", "1.jpg", "2.jpg", "3.jpg")
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for source, name in (("1", "ok.jpg"), ("2", "../../etc/evil.jpg"), ("3", "last.jpg")):
            tar.add(tmp_path / f"in/{source}.jpg", arcname=name)
    result = found(tmp_path, path)
    assert keys(result) == ["last", "ok"]
    assert [line["reason"] for line in result.failures] == ["unsafe_name"]
    # Cut inside the third header, after the second member, inside the second header.
    for num_bytes in (2 * 1024 + 100, 2 * 1024, 1024 + 100):
        os.truncate(path, num_bytes)
        result = found(tmp_path, path)
        assert keys(result) == ["ok"]
        assert result.failures[-1]["reason"] == "damaged_tar"


def test_a_damaged_tar_header_is_not_the_end_of_the_tar(tmp_path: Path) -> None:
    touch(tmp_path / "in", "1.jpg", "2.jpg")
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("1.jpg", "2.jpg"):
            tar.add(tmp_path / "in" / name, arcname=name)
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(b"garbage")
    result = found(tmp_path, path)
    assert keys(result) == ["1"]
    assert [line["reason"] for line in result.failures] == ["damaged_tar"]


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "empty", "notes.txt", "x.tar")
    (tmp_path / "none.txt").write_text("\n")
    (tmp_path / "odd.docx").write_text("x")
    for source, message in (
        ("empty", r"empty: holds no images .* 2 other files .*empty/\*\.tar"),
        ("none.txt", "none.txt: the list is empty"),
        ("empty/x.tar", "x.tar: not an uncompressed tar"),
    ):
        with pytest.raises(DataError, match=message):
            found(tmp_path, tmp_path / source)
    for source, message in (("nowhere", "nowhere: no such file"), ("odd.docx", "neither a folder")):
        with pytest.raises(ConfigError, match=message):
            found(tmp_path, tmp_path / source)
    touch(tmp_path / "in", "1.jpg")
    with pytest.raises(ConfigError, match=r"--masks .*nowhere: no such folder"):
        found(tmp_path, tmp_path / "in", masks=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="different folders"):
        found(tmp_path, tmp_path / "in", masks=tmp_path / "in")
    with pytest.raises(DataError, match="refused"):
        found(tmp_path, "pipe:touch pwned.tar")


def test_many_rows_stay_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a2s.data.input_rows._CHUNK", 7)
    touch(tmp_path / "in", *(f"{i * 37 % 100:03d}.jpg" for i in range(100)))
    column = found(tmp_path, tmp_path / "in").images["key"]
    assert column.to_pylist() == [f"{i:03d}" for i in range(100)]
    assert pc.count_distinct(column).as_py() == 100
