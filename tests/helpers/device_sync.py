"""Finds where a loop asks for a number that a device may still be computing.

On a CPU nothing waits, so what derives from given tensors (weights), and what is sent with
`non_blocking`, is taken for a device's: to read it is what would let a GPU's queue run dry. What a
CPU cannot show: a copy to the device from memory that is not pinned, and one back that is asked for
with a `torch.device`, which looks like one to where the tensor is.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READING = ("cpu", "numpy", "tolist", "__array__")
"""Methods that torch does not dispatch where the tensor is on the CPU already."""
_NEEDS_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_")


class Waits(TorchDispatchMode):
    """Between enter and exit: `found` names the lines that read, `num_followed` what was computed.

    Made once; entered again for each step, by the thread that made it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        self.num_followed = 0
        self._active, self._thread = False, threading.get_ident()
        # Storage that is freed is given to others, so nothing is.
        self._kept: dict[int, Tensor] = {}
        for name in READING:
            monkeypatch.setattr(Tensor, name, self._noticing(getattr(Tensor, name)))
        monkeypatch.setattr(Tensor, "to", self._sending(Tensor.to))

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Take these, and what will be computed from them, for a device's."""
        for tensor in tensors:
            self._kept.setdefault(tensor.untyped_storage().data_ptr(), tensor.detach())

    def __enter__(self) -> Waits:
        self._active = True
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._active = False
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        followed = any(map(self._follows, tensors))
        result = func(*args, **(kwargs or {}))
        if followed:
            self.num_followed += 1
            reads = bool(_NEEDS_VALUES & set(func.tags))
            if func._schema.name in _INDEXING:
                # By integers the result's size is known.
                reads = any(tensor.dtype == torch.bool for tensor in tensors[1:])
            if reads:
                self._note()
            self.follow(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _follows(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._kept

    def _noticing(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def read(tensor: Tensor, *args: Any, **named: Any) -> Any:
            here = self._active and threading.get_ident() == self._thread
            if here and self._follows(tensor):
                self._note()
            return method(tensor, *args, **named)

        return read

    def _sending(self, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def to(tensor: Tensor, *args: Any, **named: Any) -> Tensor:
            result = method(tensor, *args, **named)
            if not self._active or threading.get_ident() != self._thread:
                return result
            flags = [arg for arg in args if isinstance(arg, bool)]
            non_blocking = named.get("non_blocking", any(flags[:1]))
            # A device would compare equal to nothing, a tensor element by element.
            places = [place for place in (*args, *named.values()) if isinstance(place, str)]
            if non_blocking and not self._follows(tensor):
                self.follow([result := result.clone()])
            elif "cpu" in places and self._follows(tensor):
                self._note()
            return result

        return to

    def close(self) -> None:
        """Leave, if an error has come between enter and exit."""
        if self._active:
            self.__exit__(None, None, None)

    def _note(self) -> None:
        lines = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        where = next(frame for frame in reversed(lines) if frame.filename != __file__)
        self.found.append(f"{where.filename}:{where.lineno} {where.line}")
