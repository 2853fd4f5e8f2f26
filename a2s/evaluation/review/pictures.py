"""What the page shows of a label: a thumbnail, the photograph, and the mask that holds."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

import cv2
import numpy as np
from PIL import Image

from a2s.data import images
from a2s.data.arrays import U8, Bool
from a2s.errors import DataError
from a2s.evaluation.pictures.overlay import overlay
from a2s.evaluation.review.desk import Desk
from a2s.storage.machine import num_cpus

THUMB_PX = 240
EDIT_PX = 1600
"""Longest side at which a label is edited; masks of larger images are enlarged."""
CACHE_BYTES = 64 * 2**20
CACHED_IMAGES = 4


class Pictures:
    """Pictures of the labels of a desk, made when they are asked for; memory is bounded."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._lock = threading.Lock()
        # Decoding more at a time than there are CPUs only takes memory.
        self._turn = threading.BoundedSemaphore(num_cpus())
        self._thumbs: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._thumb_bytes = 0
        self._images: OrderedDict[int, U8] = OrderedDict()

    def thumbnail(self, row: int) -> bytes:
        """JPEG of the photograph with its label drawn over it.

        Raises:
            DataError: the image or the label is damaged.
        """
        wanted = row, int(self._desk.version_N[row])
        with self._lock:
            if wanted in self._thumbs:
                self._thumbs.move_to_end(wanted)
                return self._thumbs[wanted]
        with self._turn:
            jpeg = self._thumbnail(row)
        with self._lock:
            if wanted not in self._thumbs:
                self._thumbs[wanted] = jpeg
                self._thumb_bytes += len(jpeg)
            while self._thumb_bytes > CACHE_BYTES:
                self._thumb_bytes -= len(self._thumbs.popitem(last=False)[1])
        return jpeg

    def _thumbnail(self, row: int) -> bytes:
        desk = self._desk
        at = int(desk.data_row_N[row])
        limit = max(images.MAX_PIXELS, desk.data.pixels(at))
        small, _ = images.shrink(desk.data.read(at), max_side=THUMB_PX, max_pixels=limit)
        image_hw3 = images.decode(small)
        height, width = image_hw3.shape[:2]
        mask_HW = self.label(row)
        mask_hw = cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_AREA)
        return _encode(overlay(image_hw3, np.asarray(mask_hw, np.uint8)), "JPEG", quality=82)

    def photograph(self, row: int) -> bytes:
        """JPEG of the photograph at the size at which its label is edited.

        Raises:
            DataError: the image is damaged.
        """
        return _encode(self.image(row), "JPEG", quality=90)

    def image(self, row: int) -> U8:
        """The photograph at the size at which its label is edited. Shape: h w 3.

        Raises:
            DataError: the image is damaged.
        """
        with self._lock:
            if row in self._images:
                self._images.move_to_end(row)
                return self._images[row]
        at = int(self._desk.data_row_N[row])
        limit = max(images.MAX_PIXELS, self._desk.data.pixels(at))
        with self._turn:
            image_HW3 = images.decode(self._desk.data.read(at), max_pixels=limit)
        height, width = edit_size(*image_HW3.shape[:2])
        image_hw3 = images.resize_rgb(image_HW3, height=height, width=width)
        with self._lock:
            self._images[row] = image_hw3
            while len(self._images) > CACHED_IMAGES:
                self._images.popitem(last=False)
        return image_hw3

    def label(self, row: int, *, is_first: bool = False) -> U8:
        """The label at its own size: as a2s made it, or as it was fixed. Shape: H W.

        Raises:
            DataError: it is damaged.
        """
        decision = None if is_first else self._desk.decision(row)
        png = decision.mask_png if decision else None
        return images.decode_mask(png or self._desk.labels.read(row))

    def mask(self, row: int, *, is_first: bool = False) -> bytes:
        """The label at the size at which it is edited, eight pixels in a byte.

        Raises:
            DataError: it is damaged.
        """
        mask_HW = self.label(row, is_first=is_first)
        return pack(_resized(mask_HW, *edit_size(*mask_HW.shape)) > 0)

    def drawn(self, row: int, mask_hw: Bool) -> bytes:
        """PNG, at the label's own size, of a mask that was drawn at the size for editing.

        Where nothing was drawn, the label keeps the detail that the smaller one lacks.

        Raises:
            DataError: the label is damaged.
        """
        label_HW = self.label(row)
        height, width = label_HW.shape
        if (height, width) == mask_hw.shape:
            return images.encode_png(mask_hw * np.uint8(255))
        before_hw = _resized(label_HW, *mask_hw.shape) > 127
        changed_hw = (before_hw != mask_hw).astype(np.uint8)
        changed_hw = np.asarray(cv2.dilate(changed_hw, np.ones((3, 3), np.uint8)), np.uint8)
        changed_HW = cv2.resize(changed_hw, (width, height), interpolation=cv2.INTER_NEAREST)
        drawn_HW = _resized(mask_hw * np.uint8(255), height, width)
        return images.encode_png(np.where(np.asarray(changed_HW) > 0, drawn_HW, label_HW))


def pack(mask_HW: Bool) -> bytes:
    """Eight pixels in a byte, row after row, the first pixel in the highest bit."""
    return np.packbits(mask_HW).tobytes()


def unpack(data: bytes, *, height: int, width: int) -> Bool:
    """The inverse of `pack`.

    Shape: H W.

    Raises:
        DataError: there are too few bytes, or too many.
    """
    if len(data) != -(-height * width // 8):
        raise DataError(f"a mask of {width} x {height} pixels has not {len(data):,} bytes")
    bits_N = np.unpackbits(np.frombuffer(data, np.uint8), count=height * width)
    return bits_N.reshape(height, width) > 0


def edit_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a label is edited."""
    scale = min(1.0, EDIT_PX / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(mask_HW: U8, height: int, width: int) -> U8:
    """Resize a mask; it keeps the values 0 and 255. Shape: H W -> height width."""
    if mask_HW.shape == (height, width):
        return np.where(mask_HW > 127, np.uint8(255), np.uint8(0))
    shrinks = height < mask_HW.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    soft_HW = np.asarray(cv2.resize(mask_HW, (width, height), interpolation=how))
    return np.where(soft_HW > 127, np.uint8(255), np.uint8(0))


def _encode(pixels_HW3: U8, name: str, *, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, name, quality=quality)
    return buffer.getvalue()
