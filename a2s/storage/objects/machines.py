"""The ranks of one start, which write into one folder of a store.

Ranks of one machine share a working folder; rank 0 brings it there and publishes it. On other
machines each has a copy. What ranks there write is put into the store by them, and the copy is made
equal to the store again while all ranks stand still (`parallel.shared_folder`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from a2s.errors import StorageError
from a2s.storage.objects import cache, elsewhere, lease, meeting, mirror
from a2s.storage.objects.elsewhere import Job
from a2s.storage.objects.lease import Lease
from a2s.storage.objects.locks import locked
from a2s.storage.objects.mirror import Known
from a2s.storage.objects.order import is_last
from a2s.storage.objects.publisher import INTERVAL_SEC, Publisher
from a2s.storage.objects.scan import scan
from a2s.storage.objects.urls import root, url_of

READY_SEC = 300.0


@dataclass
class Shared:
    """What a rank knows of the folder that it shares with ranks on other machines."""

    work: Path
    command: str
    publisher: Publisher | None = None
    """That of rank 0."""
    token: str = ""
    """That of the lock, as rank 0 has told."""
    is_copy: bool = False
    """Whether `work` is another folder than that of rank 0."""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def lock_url(self) -> str:
        """The lock that rank 0 holds."""
        return f"{url_of(self.work)}/{lease.NAME}"


_current: dict[str, Shared] = {}


def are_several() -> bool:
    """Whether the launcher has started ranks on several machines."""
    world, here = (os.environ.get(name, "") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return world.isdigit() and here.isdigit() and int(world) > int(here)


def current() -> Shared | None:
    """The folder that ranks of several machines share; None if there is none. Equal on all."""
    return _current.get("folder")


@contextlib.contextmanager
def led(work: Path, command: str, held: Lease, publisher: Publisher) -> Iterator[None]:
    """Rank 0 works in the block; the other ranks begin when it does.

    Raises:
        StorageError: what a call before has left to be published cannot be.
    """
    others = int(os.environ.get("WORLD_SIZE", "1")) - 1
    if not others:
        yield
        return
    with contextlib.ExitStack() as stack:
        if are_several():
            # What is only here would be missing elsewhere.
            publisher.publish_all()
        heard = meeting.answering(_place(work), start=_start(), says=cache_id(), others=others)
        stack.enter_context(heard)
        if are_several():
            stack.enter_context(_sharing(Shared(work, command, publisher, token=held.token)))
        yield


@contextlib.contextmanager
def joined(work: Path, command: str) -> Iterator[None]:
    """Another rank works in the block, in the folder of rank 0 or a copy of it.

    Raises:
        StorageError: rank 0 has not begun within minutes, or the store cannot be reached.
    """
    published_by = meeting.ask(_place(work), start=_start(), patience_sec=READY_SEC)
    if published_by is None:
        same = "the same --out" if are_several() else "one A2S_CACHE and LOCAL_WORLD_SIZE"
        raise StorageError(
            f"{command}: {url_of(work)}: rank 0 has not begun to write there in {READY_SEC:.0f} s; "
            f"is it started, with {same}?"
        )
    if not are_several():
        yield
        return
    if published_by != cache_id():
        mirror.follow(work)
    with _sharing(Shared(work, command)):
        yield


def _place(work: Path) -> meeting.Place:
    """Where the ranks of a start meet to begin with a folder."""
    if are_several():
        return meeting.InStore(str(url_of(work)))
    return meeting.OnMachine(mirror.state_file(work).with_suffix(meeting.ASKS))


def cache_id() -> str:
    """What tells the cache of this machine from those of others; made once."""
    file = root() / "id"
    with locked("id"):
        if not file.exists() or not file.stat().st_size:
            file.write_text(uuid.uuid4().hex)
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor) as opened:
            return opened.read()


def hear(shared: Shared, token: str) -> None:
    """Learn from rank 0 which lock it holds, and whether its working folder is this machine's."""
    is_new, shared.token = not shared.token, token
    shared.is_copy = not elsewhere.is_commanded_here(shared.work, token)
    if shared.is_copy and is_new:
        thread = threading.Thread(target=_put_meanwhile, args=(shared,), daemon=True, name="putter")
        thread.start()


def put_written(shared: Shared) -> None:
    """Put into the store what the ranks of this machine have written, if others publish the folder.

    Raises:
        StorageError: the store cannot be reached, or rank 0 has lost the folder.
        Conflict: somebody else has written there.
    """
    if not shared.is_copy:
        return
    work = shared.work
    with locked("folder", str(url_of(work))):
        known = mirror.read_known(work)
        # What declares files finished is looked for first: so they are there when it is.
        declared = {name: one for name, one in scan(work).items() if is_last(name)}
        found = {name: one for name, one in scan(work).items() if not is_last(name)} | declared
        new = {
            name: state
            for name, state in found.items()
            if state is not None and (name not in known or known[name][1:] != state)
        }
        if not new:
            return
        job = Job(work, shared.token, shared.lock_url)
        put = elsewhere.put_all(job, work, list(new))
        for name, one in put.items():
            cache.adopt_if_large(work / name, one)
            known[name] = Known(one.etag, *new[name])
        mirror.write_known(work, known)


def follow(shared: Shared) -> None:
    """Make this machine's copy equal to the store. Raises as `mirror.follow`."""
    mirror.follow(shared.work)


def _put_meanwhile(shared: Shared) -> None:
    """Do so while the ranks work, so that they wait less when they stand still."""
    while not shared.ended.wait(INTERVAL_SEC):
        # When they stand still it is done again, and says what fails.
        with contextlib.suppress(StorageError, OSError):
            put_written(shared)


@contextlib.contextmanager
def _sharing(shared: Shared) -> Iterator[None]:
    _current["folder"] = shared
    try:
        yield
    finally:
        shared.ended.set()
        del _current["folder"]


def _start() -> str:
    """What the ranks of one start have in common; another start may have the same."""
    names = ["MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE"]
    return " ".join(os.environ.get(name, "-") for name in names)
