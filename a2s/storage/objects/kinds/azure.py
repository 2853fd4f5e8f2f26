"""Azure Blob Storage, by adlfs and the library of Azure below it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from a2s.storage.objects.kinds.by_fsspec import ByFsspec, metadata, split
from a2s.storage.objects.retries import CONNECT_SEC, STALL_SEC
from a2s.storage.objects.s3 import ABSENT, Object

_ONCE: dict[str, Any] = {
    "retry_total": 0,
    "connection_timeout": CONNECT_SEC,
    "read_timeout": STALL_SEC,
}
"""Requests are repeated in one place only, `retried`."""


class Azure(ByFsspec):
    """A store."""

    def __init__(self) -> None:
        import fsspec

        file_system = fsspec.filesystem(
            "az",
            skip_instance_cache=True,
            use_listings_cache=False,
            connection_timeout=CONNECT_SEC,
            read_timeout=STALL_SEC,
        )
        super().__init__("az", file_system)

    def _range(self, one: Object, start: int, end: int) -> bytes:
        from azure.core import MatchConditions

        part: dict[str, Any] = {"offset": start, "length": end - start}
        condition = {"etag": f'"{one.etag}"', "match_condition": MatchConditions.IfNotModified}

        async def read() -> bytes:
            async with self._blob(one.url) as blob:
                stream = await blob.download_blob(**part, **condition, **_ONCE)
                return bytes(await stream.readall())

        data: bytes = self._sync(read)
        return data

    def _write(self, url: str, data: Any, expect: str | None, token: str) -> None:
        from azure.core import MatchConditions
        from azure.core.exceptions import ResourceExistsError

        condition: dict[str, Any] = {"overwrite": expect != ABSENT}
        if expect:
            condition |= {"etag": f'"{expect}"', "match_condition": MatchConditions.IfNotModified}

        async def write() -> None:
            async with self._blob(url) as blob:
                await blob.upload_blob(data, metadata=metadata(token), **condition, **_ONCE)

        try:
            self._sync(write)
        except ResourceExistsError as error:
            # Its status, 409, is also that of what passes.
            raise FileExistsError(url) from error

    def _write_file(self, url: str, path: Path, expect: str | None, token: str) -> None:
        # Its parts are one object once all are there, on the same condition.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            self._write(url, file, expect, token)

    def _blob(self, url: str) -> Any:
        container, name = split(url)
        return self._fs.service_client.get_blob_client(container=container, blob=name)
