"""torchvision's classifiers, imported without torch's compiler.

`torchvision.ops.roi_align` imports `torch._dynamo` for one question about the device, which costs
every command and every worker more time than the rest of torch and torchvision together.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch  # noqa: F401  (must be complete before a part of it is stood in for)

_COMPILER = "torch._dynamo.utils"


class _Later(ModuleType):
    """Answers the one question by importing the compiler, anything else by being replaced."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        return bool(importlib.import_module(_COMPILER).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(_COMPILER, None)
        return getattr(importlib.import_module(_COMPILER), name)


@contextlib.contextmanager
def compiler_imported_later() -> Iterator[None]:
    """Within it the compiler is not imported; what is taken from it imports it when called."""
    if _COMPILER in sys.modules:
        yield
        return
    sys.modules[_COMPILER] = stand_in = _Later(_COMPILER)
    try:
        yield
    finally:
        # Something may have put the real one there meanwhile.
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


with compiler_imported_later():
    from torchvision.models import mobilenet_v2, resnet50
    from torchvision.ops.misc import Conv2dNormActivation

__all__ = ["Conv2dNormActivation", "compiler_imported_later", "mobilenet_v2", "resnet50"]
