"""torchvision's classifiers, imported without torch's compiler.

`torchvision.ops.roi_align` imports `torch._dynamo` only to call `is_compile_supported`. That import
would cost every command and every worker more time than the rest of torch and torchvision together.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch  # noqa: F401  (must be fully imported before a submodule is replaced)

_COMPILER = "torch._dynamo.utils"


class _LazyCompiler(ModuleType):
    """Placeholder for the compiler's module, which it imports on first use."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        return bool(importlib.import_module(_COMPILER).is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        sys.modules.pop(_COMPILER, None)
        return getattr(importlib.import_module(_COMPILER), name)


@contextlib.contextmanager
def lazy_compiler() -> Iterator[None]:
    """Import the compiler lazily: a placeholder stands in `sys.modules` within the block."""
    if _COMPILER in sys.modules:
        yield
        return
    sys.modules[_COMPILER] = placeholder = _LazyCompiler(_COMPILER)
    try:
        yield
    finally:
        # Attribute access may have imported the real module in the meantime.
        if sys.modules.get(_COMPILER) is placeholder:
            del sys.modules[_COMPILER]


with lazy_compiler():
    from torchvision.models import mobilenet_v2, resnet50
    from torchvision.ops.misc import Conv2dNormActivation

__all__ = ["Conv2dNormActivation", "lazy_compiler", "mobilenet_v2", "resnet50"]
