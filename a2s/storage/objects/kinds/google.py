"""Google Cloud Storage, by gcsfs and its requests."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from a2s.storage.objects.kinds.by_fsspec import ByFsspec, metadata, split
from a2s.storage.objects.retries import CONNECT_SEC, REQUEST_SEC, STALL_SEC
from a2s.storage.objects.s3 import PART_BYTES, Object


class Google(ByFsspec):
    """A store; an object's etag is its generation, which conditions name."""

    def __init__(self) -> None:
        # Else it asks by another protocol if a bucket is zonal, for a minute where none answers.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        import aiohttp
        from gcsfs.core import GCSFileSystem

        # It logs a traceback of every answer that is an error; `retried` makes a line of it.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        timeout = aiohttp.ClientTimeout(
            total=REQUEST_SEC, sock_connect=CONNECT_SEC, sock_read=STALL_SEC
        )
        file_system = GCSFileSystem(
            skip_instance_cache=True, use_listings_cache=False, requests_timeout=timeout
        )
        super().__init__("gs", file_system)

    def _range(self, one: Object, start: int, end: int) -> bytes:
        bucket, name = split(one.url)
        path = f"{self._fs._location}/storage/v1/b/{quote(bucket)}/o/{quote(name, safe='')}"

        async def read() -> bytes:
            _, data = await self._fs._call(
                "GET",
                path,
                alt="media",
                ifGenerationMatch=one.etag,
                headers={"Range": f"bytes={start}-{end - 1}"},
            )
            return bytes(data)

        data: bytes = self._sync(read)
        return data

    def _write(self, url: str, data: bytes, expect: str | None, token: str) -> None:
        bucket, name = split(url)
        path = f"{self._fs._location}/upload/storage/v1/b/{quote(bucket)}/o"
        about = json.dumps({"name": name, "metadata": metadata(token)}).encode()
        kind = b"\r\nContent-Type: application/"
        body = b"--==a2s==" + kind + b"json; charset=UTF-8\r\n\r\n" + about + b"\r\n--==a2s=="
        body += kind + b"octet-stream\r\n\r\n" + data + b"\r\n--==a2s==--"
        headers = {"Content-Type": 'multipart/related; boundary="==a2s=="'}
        condition = _generation(expect)
        self._sync(
            lambda: self._fs._call(
                "POST", path, uploadType="multipart", headers=headers, data=body, **condition
            )
        )

    def _write_file(self, url: str, path: Path, expect: str | None, token: str) -> None:
        from gcsfs.core import upload_chunk

        bucket, name = split(url)
        kind, size = "application/octet-stream", path.stat().st_size
        target = f"{self._fs._location}/upload/storage/v1/b/{quote(bucket)}/o"
        about = {"name": name, "metadata": metadata(token)}
        begin = {"headers": {"X-Upload-Content-Type": kind}, "json": about, **_generation(expect)}
        answer, _ = self._sync(
            lambda: self._fs._call("POST", target, uploadType="resumable", **begin)
        )
        send = functools.partial(upload_chunk, self._fs, answer["Location"])
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            start = 0
            while data := file.read(PART_BYTES):
                self._sync(functools.partial(send, data, start, size, kind))
                start += len(data)

    def _etag(self, info: Mapping[str, Any]) -> str:
        return str(info["generation"])


def _generation(expect: str | None) -> dict[str, str]:
    return {} if expect is None else {"ifGenerationMatch": expect or "0"}
