"""Images that crash or stop the process that decodes them: the bytes hold a word of `DEEDS`.

With `KILL_WORKER` the process is killed that asks for it to be decoded, as the kernel does when
memory runs out. Processes that are started after `plant` obey, so decoders and Ray workers, but not
the tests' own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

DEEDS = {
    b"A2S-SEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
    b"A2S-ABORT": "os.abort()",
    b"A2S-EXIT": "os._exit(3)",
    b"A2S-KILL": "os.kill(os.getpid(), signal.SIGKILL)",
    # Where it hangs, a file says so.
    b"A2S-HANG": "open(__file__ + '.hangs', 'w').close(); time.sleep(600)",
    b"A2S-PRINT": "os.write(1, b'noise of a codec')",
    b"A2S-BUG": "raise ZeroDivisionError('a bug')",
    b"A2S-TERM": "os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGINT)",
}
SEGV = b"A2S-SEGV"
KILL_WORKER = b"A2S-KILL-WORKER"
_KILL_WORKERS = f"""
import importlib.util, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "a2s.data.isolation":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def patched(module):
            execute(module)
            ask = module.ask
            def obey(function, data, limits):
                if {KILL_WORKER!r} in data:
                    os.kill(os.getpid(), signal.SIGKILL)
                return ask(function, data, limits)
            module.ask = obey
        spec.loader.exec_module = patched
        return spec
sys.meta_path.insert(0, Finder())
"""


def plant(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Make new processes obey."""
    deeds = "".join(f"    if {word!r} in data:\n        {deed}\n" for word, deed in DEEDS.items())
    (folder / "sitecustomize.py").write_text(
        "import os, signal, time\n"
        "from PIL import Image\n"
        "real = Image.open\n"
        "def opened(file, *arguments, **named):\n"
        "    data = file.getvalue() if hasattr(file, 'getvalue') else b''\n"
        f"{deeds}"
        "    return real(file, *arguments, **named)\n"
        "Image.open = opened\n" + _KILL_WORKERS
    )
    patch.setenv("PYTHONPATH", str(folder))
    # Ray workers get the path of their driver.
    patch.syspath_prepend(str(folder))
