"""Write the pages of docs/ that are made from the code: `make pages`."""

from __future__ import annotations

from pathlib import Path

import errors_page
import settings_page

DOCS = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """Path and text of every such page."""
    errors = DOCS / "errors.md"
    known = errors.read_text("utf-8") if errors.is_file() else ""
    return {
        DOCS / "settings-reference.md": settings_page.page(),
        errors: errors_page.page(known),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, "utf-8")
        print(path)
