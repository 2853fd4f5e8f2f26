"""Tars of any bytes: their list ends, and names only what lies inside them."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest
from hostile import fuzzed, pax_tar, picture, tar_header, tar_of
from hypothesis import example, given
from hypothesis import strategies as st

from a2s.data.keys import decode_key
from a2s.data.tar_inputs import local_tar, tar_members
from a2s.errors import DataError

PICTURE = picture()
SIZES = st.one_of(
    st.integers(0, 5000),
    st.integers(-(2**87), 2**87),
    st.sampled_from([-1, -512, -1024, 2**31, 2**33, 2**62, 2**63 - 1, 2**63, 2**80]),
)
KINDS = st.sampled_from([bytes([byte]) for byte in b"01234567LKxgXSDMVA\0"])
NAMES = st.one_of(
    st.sampled_from(["a.jpg", "b.png", "../../x.jpg", "/x.jpg", "x.mask.png", "././@LongLink"]),
    st.text(max_size=40).map(lambda text: f"{text}.jpg").filter(lambda t: len(t.encode()) < 90),
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["size", "path", "mtime", "uid", "linkpath", "hdrcharset", "GNU.sparse.map"]
        + [f"GNU.sparse.{name}" for name in ("major", "minor", "name", "realsize", "size")]
    ),
    st.one_of(st.text(max_size=20), st.integers(-(2**70), 2**70).map(str), st.just("9" * 5000)),
)


@st.composite
def tars(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        data = pax_tar(PICTURE, draw(ATTRIBUTES))
    else:
        parts = []
        for name in draw(st.lists(NAMES, max_size=5)):
            content = draw(st.one_of(st.just(PICTURE), st.binary(max_size=600)))
            size = draw(st.one_of(st.just(len(content)), SIZES))
            parts.append((tar_header(name.replace("\0", "0"), size, kind=draw(KINDS)), content))
        data = tar_of(parts, end=draw(st.booleans()))
    changed = bytearray(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])
    for place, byte in draw(
        st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), max_size=4)
    ):
        if place < len(changed):
            changed[place] = byte
    return bytes(changed)


def check(path: Path) -> None:
    num_bytes = path.stat().st_size
    try:
        for member in tar_members(path, source="x.tar"):
            if member.key:
                assert member.offset >= 0
                assert 0 <= member.size <= num_bytes - member.offset
                decode_key(member.key)
            else:
                assert member.problem or member.suffix not in (".jpg", ".png")
    except DataError:
        pass


CHAIN = (tar_header("././@LongLink", 2, kind=tarfile.GNUTYPE_LONGNAME), b"a\0")


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@fuzzed
@given(data=tars())
@example(tar_of([(tar_header("a.jpg", 2**62), PICTURE)]))
@example(tar_of([(tar_header("a.jpg", 2**80), PICTURE)]))
@example(tar_of([(tar_header("a.txt", 2**62), PICTURE)]))
@example(tar_of([(tar_header("a.jpg", 9), b"x" * 9), (tar_header("b.jpg", -512), PICTURE)]))
@example(tar_of([(tar_header("a.jpg", -1), PICTURE)]))
@example(tar_of([(tar_header("././@LongLink", 2**62, kind=tarfile.GNUTYPE_LONGNAME), b"a\0")]))
@example(tar_of([CHAIN] * 3000))
@example(pax_tar(PICTURE, {"size": "-5"}))
@example(pax_tar(PICTURE, {"size": str(-(2**62))}))
@example(pax_tar(PICTURE, {"size": str(2**62)}))
@example(pax_tar(PICTURE, {"size": "9" * 5000}))
@example(pax_tar(PICTURE, {"mtime": "9" * 5000}))
@example(pax_tar(PICTURE, {"GNU.sparse.map": "a,b"}))
@example(pax_tar(PICTURE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}))
def test_fuzz_any_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(data)
    check(path)
    compressed = tmp_path / "x.tar.gz"
    compressed.write_bytes(gzip.compress(data, 1))
    try:
        copy, _ = local_tar(str(compressed), staging=tmp_path / "staging", number=0)
    except DataError:
        return
    check(copy)


def test_a_bad_first_header_hides_no_image(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(pax_tar(PICTURE, {"GNU.sparse.map": "a,b"}))
    assert [member.problem for member in tar_members(path, source="x")] == ["damaged_tar"]


def test_links_and_devices_are_listed(tmp_path: Path) -> None:
    kinds = {
        "link.jpg": tarfile.LNKTYPE,
        "symbolic.jpg": tarfile.SYMTYPE,
        "pipe.jpg": tarfile.FIFOTYPE,
        "device.jpg": tarfile.CHRTYPE,
        "folder.jpg": tarfile.DIRTYPE,
    }
    path = tmp_path / "x.tar"
    path.write_bytes(
        tar_of([(tar_header(name, 0, kind=kind), b"") for name, kind in kinds.items()])
    )
    for tar in (path, tmp_path / "x.tar.gz"):
        if tar != path:
            tar.write_bytes(gzip.compress(path.read_bytes()))
        local, lacking = local_tar(str(tar), staging=tmp_path / "staging", number=0)
        assert not lacking
        found = {member.name: member.problem for member in tar_members(local, source="x")}
        assert found == dict.fromkeys([*kinds][:4], "not_a_file")
