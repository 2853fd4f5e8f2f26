"""The output folder of training, which all ranks write into and read.

On a file system that all of them see there is nothing to do. In an object store ranks of several
machines have copies of it (`storage.objects.machines`).
"""

from __future__ import annotations

import contextlib

from a2s.parallel import ranks
from a2s.storage.objects import machines


def share_files() -> None:
    """Let all ranks see the files that each has written into the output folder (collective).

    No rank may be writing there. Every machine puts its new files into the store; then rank 0
    publishes its own, and keeps still while the others bring their copies up to date.

    Raises:
        StorageError: the store cannot be reached; on all ranks (one message).
        Conflict: somebody else has written there; likewise.
    """
    shared = machines.current()
    if shared is None:
        return
    machines.hear(shared, gather_bytes(shared.token.encode())[0].decode())
    publisher = shared.publisher
    with ranks.fail_together():
        machines.put_written(shared)
    with publisher.still() if publisher else contextlib.nullcontext():
        with ranks.fail_together():
            if publisher:
                publisher.take_in()
                publisher.publish_all()
        with ranks.fail_together():
            if shared.is_copy:
                machines.follow(shared)


def gather_bytes(data: bytes) -> list[bytes]:
    """The bytes of every rank, in the order of ranks (collective)."""
    import torch

    num_bytes_R = ranks.all_gather(torch.tensor([len(data)])).flatten().tolist()
    if not any(num_bytes_R):
        return [b""] * len(num_bytes_R)
    padded = torch.zeros(max(num_bytes_R), dtype=torch.uint8)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
    parts = ranks.all_gather(padded).numpy()
    return [part[:size].tobytes() for part, size in zip(parts, num_bytes_R, strict=True)]
