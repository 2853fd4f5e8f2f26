"""Patterns that say how masks are called after their images."""

from __future__ import annotations

import pytest

from a2s.data.mask_names import MaskNames, suggestion
from a2s.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "path", "key"),
    [
        ("{stem}_mask.png", "x_mask.png", "x"),
        ("{stem}_mask.png", "sub/x y_mask.PNG", "sub/x%20y"),
        ("{stem}_mask.png", "x.png", None),
        ("{stem}_mask.png", "x_mask.jpg", None),
        ("{stem}-gt", "a/x-gt.jpg", "a/x"),
        ("./gt/{stem}.png", "gt/a/x.png", "a/x"),
        ("gt/{stem}.png", "a/x.png", None),
        ("{parent}/gt/{name}.png", "a/b/gt/x.png", "a/b/x"),
        ("{parent}/gt/{name}.png", "gt/x.png", None),
        ("part*/{name}_[1].png", "part07/x_[1].png", "x"),
        ("*/{name}.png", "a/b/x.png", None),
    ],
)
def test_a_path_tells_its_image(pattern: str, path: str, key: str | None) -> None:
    assert MaskNames.parse(pattern).image_key(path) == key


@pytest.mark.parametrize(
    "pattern", ["mask.png", "{stem}{stem}", "{file}.png", "{parent}/x.png", "{stem}/{name}.png"]
)
def test_a_pattern_without_the_name_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"needs \{stem\}.*'\{stem\}_mask.png'"):
        MaskNames.parse(pattern)


def test_a_pattern_is_suggested_that_pairs() -> None:
    found = suggestion(["1", "sub/x"], ["21_mask.png", "gt/sub/x-seg.png"])
    assert found == "--mask-pattern 'gt/{stem}-seg.png' would pair gt/sub/x-seg.png with sub/x"
    assert MaskNames.parse("gt/{stem}-seg.png").image_key("gt/sub/x-seg.png") == "sub/x"
    assert "--mask-pattern '{name}_m.png'" in suggestion(["sub/x"], ["x_m.png"])
    assert "'{parent}/gt/{name}.png'" in suggestion(["a/b/x"], ["a/b/gt/x.png"])
    assert "'{stem}_mask.png'" in suggestion(["x"], ["y.png"])
    assert "'{stem}_mask.png'" in suggestion(["a/x"], ["a/y.png"])
