"""What a training rank says of itself, once a second, and where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, Protocol

from a2s.storage.parsing import parse_json

State = Literal["works", "waits", "done", "failed", "leaves"]
"""`leaves`: ends because of the ranks that it names as faulty."""


class Store(Protocol):
    """What is used of `torch.distributed.TCPStore`."""

    def set(self, key: str, value: str) -> None:
        """Store a value."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Values of keys that exist."""


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself."""

    count: int
    """Grows with every heartbeat."""
    progress: int
    """Grows with every collective and step."""
    state: State
    host: str
    machine: str
    """Equal for two processes that see each other's process numbers."""
    pid: int
    where: str
    """Source line of its main thread, or why it failed."""
    faulty: dict[str, str]
    """Ranks that it has found at fault, and why."""

    @classmethod
    def parse(cls, data: bytes) -> Beat:
        """Parse what `text` gives."""
        return cls(**parse_json(data))

    def text(self) -> str:
        """As JSON."""
        return json.dumps(self.__dict__)
