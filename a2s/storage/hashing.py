"""Hashes of files, settings and keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from a2s.storage.files import open_file


def key_hash(key: str) -> int:
    """Hash a key to the integer that seeds its random draws; the same on every machine.

    Range: 0 .. 2**63 - 1.
    """
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: as `files.open_file`, or reading fails.
    """
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """SHA-256 of a JSON-serialisable value, hexadecimal; independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def short_hash(data: bytes) -> int:
    """Hash of a file's bytes, for finding identical files. Range: 0 .. 2**64 - 1."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
