"""File names that every system takes, and the way back to keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2s.data.keys import decode_key, encode_key
from a2s.errors import DataError
from a2s.labels.export.names import file_name, possible_keys
from a2s.labels.export.yolo import safe_path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/cat", "a/cat"),
        ("Łódź by night", "Łódź by night"),
        ("CON", "%43ON"),
        ("aux.backup/x", "%61ux.backup/x"),
        ("COM¹", "%43OM¹"),
        ("console", "console"),
        ('a<b>:"|?*\\', "a%3Cb%3E%3A%22%7C%3F%2A%5C"),
        ("50%", "50%25"),
        (".hidden/end.", "%2Ehidden/end%2E"),
        (" a b ", "%20a b%20"),
        ("tab\tand\u202egnp", "tab%09and%E2%80%AEgnp"),
        ("byte\udcff", "byte%FF"),
    ],
)
def test_what_some_system_refuses_is_escaped(path: str, name: str) -> None:
    assert file_name(encode_key(path)) == name


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
def test_every_name_is_safe_and_leads_back(path: str) -> None:
    try:
        key = encode_key(path)
        decode_key(key)
    except DataError:
        return
    name = file_name(key)
    for segment in name.split("/"):
        assert not re.search(r'[\x00-\x1f<>:"\\|?*]', segment)
        assert segment.strip(" ").strip(".") == segment
    assert next(possible_keys(f"{name}.jpg")) == key
    assert key in list(possible_keys(f"images/{name}.png"))


def test_urls_and_folders_in_front_are_no_matter() -> None:
    local = "/data/local-files/?d=ls/images/a%2520b/c%20d.jpg"
    assert encode_key("a b/c d") in list(possible_keys(local))
    assert "x/cat" in list(possible_keys("s3://bucket/images/x/cat.jpg"))
    assert list(possible_keys("..")) == []


def test_folders_of_the_images_themselves_are_never_dropped() -> None:
    assert set(possible_keys("b/cat.jpg")) == {"b/cat"}
    assert set(possible_keys("/home/me/voc/JPEGImages/b/cat.jpg")) == {
        "home/me/voc/JPEGImages/b/cat",
        "b/cat",
    }
    assert "cat" not in set(possible_keys("https://host/images/b/cat.jpg?x=1/cat.jpg"))


def test_yolo_keeps_its_own_folder_apart() -> None:
    assert safe_path("images/my images/images") == "%69mages/my images/images"
    assert safe_path("cat") == "cat"
    assert next(possible_keys(safe_path("images/cat"))) == "images/cat"
