"""Keys: reversible, safe, one canonical spelling per path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2s.data.keys import decode_key, encode_key
from a2s.errors import DataError
from a2s.storage.hashing import key_hash

segments = (
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
    .map(lambda text: text[:40])
    .filter(lambda text: text not in (".", ".."))
)
paths = st.lists(segments, min_size=1, max_size=4).map("/".join)


@given(paths)
def test_round_trip(path: str) -> None:
    key = encode_key(path)
    assert key.isascii()
    assert "." not in key
    assert decode_key(key) == path


@given(paths, paths)
def test_two_paths_never_share_a_key(one: str, other: str) -> None:
    assert (encode_key(one) == encode_key(other)) == (one == other)


@given(st.text(alphabet="ab%2E50Ff/._-é", max_size=12))
def test_decoding_accepts_only_what_encoding_writes(key: str) -> None:
    try:
        path = decode_key(key)
    except DataError:
        return
    assert encode_key(path) == key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("cat", "cat"),
        ("a/b_c-9", "a/b_c-9"),
        ("my cat.v2", "my%20cat%2Ev2"),
        ("100%", "100%25"),
        ("Käse", "K%C3%A4se"),
        ("猫/1", "%E7%8C%AB/1"),
        # A file name that is not UTF-8, as Python lists it.
        ("a\udcff", "a%FF"),
    ],
)
def test_known_keys(path: str, key: str) -> None:
    assert encode_key(path) == key
    assert decode_key(key) == path


@pytest.mark.parametrize(
    "path", ["", "/a", "a//b", "a/", ".", "..", "../a", "a/../b", "./a", "a\0"]
)
def test_unsafe_paths_are_refused(path: str) -> None:
    with pytest.raises(DataError, match="name"):
        encode_key(path)


@pytest.mark.parametrize(
    "key",
    [
        *("", "/a", "a//b", "..", "%2E", "%2E%2E", "a/%2E%2E/b", "%00", "a\n"),
        *("a%2Fb", "a%2f", "a%41", "a%4", "%", "%ZZ", "a.b", "a b", "é"),
    ],
)
def test_unsafe_and_malformed_keys_are_refused(key: str) -> None:
    with pytest.raises(DataError):
        decode_key(key)


def test_names_that_are_not_text_are_refused() -> None:
    with pytest.raises(DataError, match="rename"):
        encode_key("a\ud800")


def test_key_hash_is_pinned() -> None:
    # Resumed runs rely on the hash, so its values must not change.
    assert key_hash("a") == 3405396810240292928
    assert key_hash("a/b%20c") == 8957838958930640324
    assert 0 <= key_hash("a/b") < 2**63
    assert len({key_hash(str(i)) for i in range(1000)}) == 1000
