"""Files that nobody should have to read: odd kinds, tars and images that lie, and how to fuzz."""

from __future__ import annotations

import io
import os
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from PIL import Image

EXAMPLES = int(os.environ.get("A2S_FUZZ_EXAMPLES", "60"))
"""Inputs per fuzz test; `make fuzz` asks for more, again and again."""
_BLOCK = 512


def fuzzed(test: Callable[..., Any]) -> Callable[..., Any]:
    """Settings of a fuzz test: EXAMPLES inputs; files of one example may be overwritten."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=checks)(test)


def picture(image_format: str = "JPEG", side: int = 24, **options: Any) -> bytes:
    """A small image."""
    steps_HW = np.add.outer(np.arange(side), 2 * np.arange(side)).astype(np.uint8)
    buffer = io.BytesIO()
    pixels_HW3 = np.stack([steps_HW, steps_HW[::-1], steps_HW.T], axis=-1)
    Image.fromarray(pixels_HW3).save(buffer, image_format, **options)
    return buffer.getvalue()


def mask(side: int = 64) -> bytes:
    """A mask with an object in the middle, as PNG."""
    mask_HW = np.zeros((side, side), np.uint8)
    mask_HW[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    buffer = io.BytesIO()
    Image.fromarray(mask_HW).save(buffer, "PNG")
    return buffer.getvalue()


def odd_files(folder: Path, suffix: str) -> None:
    """Everything that has the name of a picture and is no file."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / f"pipe{suffix}")
    here = os.getcwd()
    try:
        os.chdir(folder)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"socket{suffix}")
    finally:
        os.chdir(here)
    (folder / f"folder{suffix}").mkdir()
    (folder / f"device{suffix}").symlink_to("/dev/zero")
    (folder / f"loop{suffix}").symlink_to(f"loop{suffix}")
    (folder / f"nowhere{suffix}").symlink_to("not-there")


ODD_NAMES = ("pipe", "socket", "device", "loop", "nowhere")


def tar_header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header with a right checksum and any size, also an impossible one."""
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-_BLOCK:])
    if 0 <= size < 8**11:
        header[124:136] = b"%011o\0" % size
    else:  # base 256, as GNU tar writes what is too large
        header[124:136] = bytes([0x80 if size >= 0 else 0xFF]) + (size % 2**88).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def tar_of(members: Sequence[tuple[bytes, bytes]], *, end: bool = True) -> bytes:
    """A tar of headers and contents."""
    blocks = b"".join(header + data + bytes(-len(data) % _BLOCK) for header, data in members)
    return blocks + bytes(2 * _BLOCK if end else 0)


def pax_tar(data: bytes, attributes: Mapping[str, str]) -> bytes:
    """A tar of `a.jpg`, whose extended header has these attributes, and `b.jpg`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, headers in (("a.jpg", dict(attributes)), ("b.jpg", {})):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), headers
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tiff(tags: Mapping[int, tuple[int, ...]]) -> bytes:
    """A TIFF header with these tags, all of 32-bit integers."""
    end = 8 + 2 + 12 * len(tags) + 4
    directory, more = struct.pack("<H", len(tags)), b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(packed) > 4:
            packed, more = struct.pack("<I", end + len(more)), more + packed
        directory += struct.pack("<HHI", tag, 4, len(values)) + packed
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + more


def tile_bomb(tile_side: int) -> bytes:
    """A TIFF of 16 x 16 pixels, whose only tile has `tile_side` squared."""
    content = zlib.compress(bytes(1 << 16))
    tags = {
        **{256: (16,), 257: (16,), 258: (8, 8, 8), 259: (8,), 262: (2,), 277: (3,), 284: (1,)},
        **{322: (tile_side,), 323: (tile_side,), 324: (0,), 325: (len(content),)},
    }
    return tiff(tags | {324: (len(tiff(tags)),)}) + content
