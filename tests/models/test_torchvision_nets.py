"""torchvision without torch's compiler, tested in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest


def output_of(code: str) -> str:
    """Output of a fresh interpreter that runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("job", ["label", "predict"])
def test_no_command_imports_the_compiler(job: str) -> None:
    modules = f"a2s.commands.{job}, a2s.models.encoders"
    code = f"import sys, {modules}; print('torch._dynamo' in sys.modules)"
    assert output_of(code) == "False\n"


def test_the_compiler_and_its_callers_still_work() -> None:
    code = """
import sys
import a2s.models.encoders
import torch, torchvision
from torchvision.ops import roi_align
asked = roi_align.__globals__["is_compile_supported"]
assert "torch._dynamo" not in sys.modules
print(asked("cpu"))
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported("cpu"))
double = torch.compile(lambda x: x * 2, backend="eager")
print(double(torch.ones(1)).item())
print(tuple(roi_align(torch.ones(1, 3, 8, 8), torch.tensor([[0, 0, 0, 4.0, 4.0]]), (2, 2)).shape))
"""
    first, second, *rest = output_of(code).split("\n")
    assert first == second
    assert rest == ["2.0", "(1, 3, 2, 2)", ""]


def test_any_other_attribute_comes_from_the_compiler() -> None:
    code = """
from a2s.models.torchvision_nets import lazy_compiler
with lazy_compiler():
    from torch._dynamo.utils import counters
import torch._dynamo
print(counters is torch._dynamo.utils.counters)
"""
    assert output_of(code) == "True\n"
