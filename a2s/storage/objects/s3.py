"""Objects of S3, and of stores that speak its protocol: by range, with conditions, in parts."""

from __future__ import annotations

import datetime
import email.utils
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2s.errors import StorageError
from a2s.storage.objects.retries import (
    CONNECT_SEC,
    REQUEST_SEC,
    STALL_SEC,
    Conflict,
    retried,
    status_of,
)

ABSENT = ""
"""Condition of a write: there is no such object yet."""
PART_BYTES = 8 * 2**20
"""Objects are read and written in parts of this size."""
MAX_PARTS = 10_000
TOKEN = "a2s-token"


@dataclass(frozen=True)
class Object:
    """An object as the store describes it; `etag` changes with its content."""

    url: str
    size: int
    etag: str
    written_sec: float
    now_sec: float | None = None
    """Time by the clock of the store, where it was told."""
    token: str = ""
    """What the writer gave with it."""


class S3:
    """One bucket service; its settings are those of every AWS program, such as AWS_ENDPOINT_URL."""

    def __init__(self) -> None:
        import fsspec

        # Requests are repeated in one place only, `retried`.
        self._fs = fsspec.filesystem(
            "s3",
            skip_instance_cache=True,
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": CONNECT_SEC,
                "read_timeout": STALL_SEC,
                "retries": {"total_max_attempts": 1, "mode": "standard"},
            },
        )
        self._fs.retries = 1

    @property
    def file_system(self) -> Any:
        """The file system of fsspec behind it."""
        return self._fs

    def find(self, url: str) -> Iterator[Object]:
        """List the object with this URL, if there is one, and all below it."""
        bucket, key = _split(url)
        if key and (exact := self.head(url)) is not None:
            yield exact
        more: dict[str, str] = {}
        while True:
            prefix = f"{key}/" if key else ""
            page = self._call(
                url, "listed", "list_objects_v2", Bucket=bucket, Prefix=prefix, **more
            )
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):
                    time = entry["LastModified"].timestamp()
                    etag = entry["ETag"].strip('"')
                    yield Object(f"s3://{bucket}/{entry['Key']}", int(entry["Size"]), etag, time)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def head(self, url: str) -> Object | None:
        """Describe an object; None if there is none."""
        bucket, key = _split(url)
        try:
            found = self._call(url, "read", "head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None
        except StorageError as error:
            # The answer to this question has no body, and so tells no reason.
            if status_of(error.__cause__ or error) in (301, 400, 403):
                self._call(url, "read", "get_object", Bucket=bucket, Key=key, Range="bytes=0-0")
            raise
        return _described(url, found, int(found["ContentLength"]))

    def read(self, one: Object, start: int, end: int) -> bytes:
        """Read a range of bytes of an object.

        Raises:
            FileNotFoundError, Conflict: it is gone, or another one has taken its place.
            StorageError: it cannot be read.
        """
        bucket, key = _split(one.url)
        if end <= start:
            return b""
        condition = {"IfMatch": f'"{one.etag}"'} if one.etag else {}
        wanted = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}

        async def read() -> bytes:
            answer = await self._fs._call_s3("get_object", **wanted, **condition)
            async with answer["Body"] as body:
                data: bytes = await body.read()
            if len(data) != end - start:
                raise ConnectionError(f"{len(data):,} of {end - start:,} bytes came")
            return data

        data: bytes = retried(one.url, "read", lambda: self._sync(read))
        return data

    def pieces(self, one: Object) -> Iterator[bytes]:
        """The bytes of an object, in order and by range."""
        return parts_of(one, self.read)

    def put(self, url: str, data: bytes, *, expect: str | None, token: str) -> Object:
        """Write an object, if the one that is there has the etag `expect` (or none is there).

        Raises:
            Conflict: the condition does not hold, and it was not this call that has changed it.
            StorageError: it cannot be written.
        """
        bucket, key = _split(url)
        fields = {"Bucket": bucket, "Key": key, "Body": data, "Metadata": {TOKEN: token}}
        return self._conditional(url, "put_object", fields, len(data), expect=expect, token=token)

    def put_file(self, url: str, path: Path, *, expect: str | None, token: str) -> Object:
        """Write a file in parts; otherwise as `put`."""
        bucket, key = _split(url)
        where = {"Bucket": bucket, "Key": key}
        size = path.stat().st_size
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
        upload = self._call(
            url, "written", "create_multipart_upload", **where, Metadata={TOKEN: token}
        )["UploadId"]
        try:
            parts = []
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for number, start in enumerate(range(0, size, part_bytes), start=1):
                    fields = {**where, "UploadId": upload, "PartNumber": number}
                    body = os.pread(descriptor, part_bytes, start)
                    done = self._call(url, "written", "upload_part", **fields, Body=body)
                    parts.append({"PartNumber": number, "ETag": done["ETag"]})
            finally:
                os.close(descriptor)
            fields = {**where, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
            return self._conditional(
                url, "complete_multipart_upload", fields, size, expect=expect, token=token
            )
        except BaseException:
            self._abandon(where, upload)
            raise

    def delete(self, url: str) -> None:
        """Delete an object; one that is gone already is none to complain about."""
        bucket, key = _split(url)
        self._call(url, "deleted", "delete_object", Bucket=bucket, Key=key)

    def _conditional(
        self,
        url: str,
        method: str,
        fields: dict[str, Any],
        size: int,
        *,
        expect: str | None,
        token: str,
    ) -> Object:
        condition = {}
        if expect is not None:
            condition = {"IfMatch": f'"{expect}"'} if expect else {"IfNoneMatch": "*"}
        try:
            answer = self._call(url, "written", method, **fields, **condition)
        except (Conflict, FileNotFoundError) as error:
            if isinstance(error, FileNotFoundError) and not expect:
                raise StorageError(f"{url}: cannot be written (there is no such bucket)") from error
            # A lost answer makes the repeated request fail on what the first one has written.
            found = self.head(url)
            if found is not None and found.token == token:
                return found
            raise Conflict(f"{url}: somebody else has written it meanwhile") from error
        found = self.head(url) if "ETag" not in answer else _described(url, answer, size)
        if found is None or found.size != size:
            raise StorageError(f"{url}: was written, and is not there; is it a store of objects?")
        return found

    def _abandon(self, where: dict[str, str], upload: str) -> None:
        """Drop the parts of an upload that failed; the store may have done so already."""
        import contextlib

        with contextlib.suppress(Exception):
            self._sync(
                lambda: self._fs._call_s3("abort_multipart_upload", **where, UploadId=upload)
            )

    def _call(self, url: str, what: str, method: str, **fields: Any) -> Any:
        return retried(url, what, lambda: self._sync(lambda: self._fs._call_s3(method, **fields)))

    def _sync(self, coroutine: Callable[[], Any]) -> Any:
        from fsspec.asyn import sync

        return sync(self._fs.loop, coroutine, timeout=REQUEST_SEC)


def parts_of(one: Object, read: Callable[[Object, int, int], bytes]) -> Iterator[bytes]:
    """The bytes of an object, a part at a time."""
    for start in range(0, one.size, PART_BYTES):
        yield read(one, start, min(one.size, start + PART_BYTES))


def _split(url: str) -> tuple[str, str]:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _described(url: str, answer: dict[str, Any], size: int) -> Object:
    written = answer.get("LastModified") or datetime.datetime.now(datetime.UTC)
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    now_sec = email.utils.parsedate_to_datetime(date).timestamp() if date else None
    token = answer.get("Metadata", {}).get(TOKEN, "")
    if "ETag" not in answer:
        raise StorageError(f"{url}: this is no answer of a store of objects; see AWS_ENDPOINT_URL")
    etag = str(answer["ETag"]).strip('"')
    return Object(url, size, etag, written.timestamp(), now_sec, token)
