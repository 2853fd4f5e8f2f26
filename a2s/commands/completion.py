"""`a2s completion`: print the script with which a shell completes commands and flags."""

from __future__ import annotations

from a2s.config.checks import CompletionConfig
from a2s.config.completion import print_script


def run(config: CompletionConfig) -> int:
    """Print the script; return 0."""
    print_script(config.shell)
    return 0
