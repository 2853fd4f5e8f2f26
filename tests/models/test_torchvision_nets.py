"""torchvision without torch's compiler: in processes of their own, which have imported neither."""

from __future__ import annotations

import subprocess
import sys

import pytest


def said(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("job", ["label", "predict"])
def test_no_command_imports_the_compiler(job: str) -> None:
    modules = f"a2s.commands.{job}, a2s.models.encoders"
    code = f"import sys, {modules}; print('torch._dynamo' in sys.modules)"
    assert said(code) == "False\n"


def test_the_compiler_and_what_asks_about_it_still_work() -> None:
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
    first, second, *rest = said(code).split("\n")
    assert first == second
    assert rest == ["2.0", "(1, 3, 2, 2)", ""]


def test_another_name_is_that_of_the_compiler() -> None:
    code = """
from a2s.models.torchvision_nets import compiler_imported_later
with compiler_imported_later():
    from torch._dynamo.utils import counters
import torch._dynamo
print(counters is torch._dynamo.utils.counters)
"""
    assert said(code) == "True\n"
