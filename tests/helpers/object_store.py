"""A real S3 service on this machine, with a proxy for faults in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import Proxy, proxy_to

from a2s.storage import files

BUCKET = "bucket"


@dataclass
class Bucket:
    """A bucket, looked at past the proxy."""

    client: Any
    proxy: Proxy

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return data

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def upload(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def files(self, prefix: str) -> dict[str, bytes]:
        """Contents by key below a prefix."""
        return {key.removeprefix(f"{prefix}/"): self.get(key) for key in self.keys(f"{prefix}/")}

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """Address of the service."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(moto_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, a cache of this test's own, and short waits."""
    import boto3

    from a2s.storage.objects import cache, retries, stores

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "FIRST_WAIT_SEC", 0.01)
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setattr(cache, "_fetched", {"bytes": -1})
    client = boto3.client("s3", endpoint_url=f"http://{moto_server}")
    client.create_bucket(Bucket=BUCKET)
    with proxy_to(moto_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        found = Bucket(client, proxy)
        yield found
        for store in stores._stores.values():
            file_system = store.file_system
            if getattr(file_system, "_s3", None) is not None:
                file_system.close_session(file_system.loop, file_system._s3)
    for key in found.keys(""):
        found.delete(key)
    client.delete_bucket(Bucket=BUCKET)


def write(path: Path, text: str) -> None:
    """Write a file of a working folder as commands do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(path, text)


def puts(bucket: Bucket) -> list[str]:
    """Names that were put below `out/`, locks apart, in order."""
    return [
        path.split("?")[0].removeprefix("/bucket/out/")
        for method, path in bucket.proxy.requests
        if method == "PUT" and ".lock" not in path
    ]
