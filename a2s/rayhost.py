"""How Ray is started here, or joined elsewhere. The module itself comes from pool.py."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Any

from a2s.errors import ConfigError

OBJECT_STORE_BYTES = 256 * 2**20


def start_local(ray: Any, workers: int) -> None:
    """Start Ray on this machine, joining no cluster that happens to be around."""
    _private_token()
    # Workers inherit this environment: they find a2s where this process found it.
    old = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, sys.path)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level="ERROR",
        )
    finally:
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old


def join(ray: Any, address: str) -> None:
    """Join a running cluster, on whose nodes a2s must be installed.

    Raises: ConfigError when it cannot be reached.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray-address {address}: cannot join: {error}") from error


def _private_token() -> None:
    # Ray's ports listen on every interface; the token is what keeps others out, and Ray itself
    # writes it readable for everybody on the machine.
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        token.chmod(0o600)
