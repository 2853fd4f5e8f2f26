"""Images of any bytes: pixels or one reason, in the same process and in that of a decoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hostile import fuzzed, mask, picture, tile_bomb
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from a2s.data import images, masks, photograph
from a2s.data.images import BadImage
from a2s.data.isolation import isolated

SEEDS = [
    *(picture(name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")),
    picture("JPEG", progressive=True, subsampling=0),
    picture("TIFF", compression="tiff_lzw"),
    picture("TIFF", compression="jpeg"),
    *(picture("WEBP", lossless=True), mask()),
]
DECODERS = (
    *(images.decode, images.decode_mask),
    *(masks.decode_map, photograph.decode_with_alpha),
)
REASONS = {"empty", "damaged", "truncated", "pixel_bomb", "unsupported", "memory", "crashes"}


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    changes = st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255))
    for place, byte in draw(st.lists(changes, max_size=8)):
        data[place] = byte
    start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
    data[start : start + length] = draw(st.binary(max_size=40))
    return bytes(data[: draw(st.integers(len(data) // 2, len(data)))])


def outcome(call: Callable[..., Any], data: bytes) -> Any:
    try:
        return call(data, max_pixels=10_000)
    except BadImage as error:
        return error.reason


@pytest.fixture
def decoders() -> Iterator[None]:
    """Decoder processes that a test keeps from one input to the next."""
    with isolated():
        yield


@fuzzed
@given(data=st.one_of(mutants(), st.binary(max_size=200)))
def test_fuzz_any_bytes(decoders: None, data: bytes) -> None:
    for call in (images.probe, *DECODERS, masks.decode_truth):
        result = outcome(call, data)
        assert not isinstance(result, str) or result in REASONS
        result = result[0] if isinstance(result, tuple) else result
        if isinstance(result, np.ndarray):
            assert result.dtype == np.uint8
            assert 0 < result.shape[0] * result.shape[1] <= 10_000


def test_a_file_of_two_formats_is_what_it_begins_as() -> None:
    jpeg, png = picture(), picture("PNG")
    for data, name in ((jpeg + png, "JPEG"), (png + b"<script>" + jpeg, "PNG")):
        assert images.probe(data).format == name
    archive = b"PK\x05\x06" + bytes(18)
    assert (images.decode(jpeg + archive) == images.decode(jpeg)).all()


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
        b"8BPS\0\1" + bytes(200),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file",
        b"GIF89a\1\0\1\0\0\0\0;",
        b"%PDF-1.7\n",
        b"\0\0\0\x0cjP  \r\n\x87\n",
    ],
    ids=["svg", "psd", "eps", "gif", "pdf", "jp2"],
)
def test_other_formats_are_never_opened(data: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        images.decode(data)
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("tile_side", [20_000, 48_000])
def test_a_small_image_cannot_make_a_decoder_take_gigabytes(tile_side: int) -> None:
    with isolated(), pytest.raises(BadImage, match=r"needs over 0\.3 GiB") as caught:
        images.decode(tile_bomb(tile_side))
    assert caught.value.reason == "memory"


def test_a_large_file_after_a_small_image_is_no_crash() -> None:
    with isolated():
        images.decode(picture())
        with pytest.raises(BadImage) as caught:
            images.decode(bytes(400 * 2**20))
        assert caught.value.reason == "unsupported"
        assert images.probe(picture()).format == "JPEG"


def test_an_eighth_of_a_jpeg_tells_the_same_as_all_of_it() -> None:
    for progressive in (False, True):
        whole = picture("JPEG", side=120, progressive=progressive)
        for cut in range(20, len(whole), 7):
            data = whole[:cut]
            outcomes = []
            for call in (images.probe, images.decode):
                try:
                    call(data)
                    outcomes.append(("fine", ""))
                except BadImage as error:
                    outcomes.append((error.reason, error.detail))
            assert outcomes[0] == outcomes[1], cut


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_strips_are_the_whole_image(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from a2s.data import pixels

    rng = np.random.default_rng(orientation)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (31, 17)).astype(np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (31, 17, 3), np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG", exif=exif)
    whole = [call(buffer.getvalue()) for call in DECODERS]
    monkeypatch.setattr(pixels, "_STRIP_PIXELS", 40)
    strips = [call(buffer.getvalue()) for call in DECODERS]
    for one, other in zip(whole, strips, strict=True):
        assert (one == other).all()
        assert one.shape[:2] == ((17, 31) if orientation > 4 else (31, 17))
    _, mask_HW, map_HW, _ = whole
    assert mode != "L" or (mask_HW == map_HW).all()
