"""Check the built site: every link and file inside it exists, and no page loads from elsewhere.

python docs/site/check_site.py build/site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Where the address of something is that a browser loads by itself; a link in a text is not.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a page links to and loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the addresses of one element."""
        found = dict(attrs)
        if name := found.get("id"):
            self.anchors.add(name)
        if tag == "a" and (address := found.get("href")):
            self.links.append(address)
        if address := found.get(LOADED.get(tag, "")):
            self.loaded.append(address)


def problems(site: Path) -> list[str]:
    """One line for each broken link, and for each file of another host."""
    pages = {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: loads {one}" for one in page.loaded if _is_elsewhere(one)]
        for address in [*page.links, *page.loaded]:
            if _is_elsewhere(address) or address.startswith(("mailto:", "data:")):
                continue
            parts = urlsplit(address)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            anchors = pages[target].anchors if target in pages else {anchor}
            if not target.is_file() or (anchor and anchor not in anchors):
                found.append(f"{name}: no {address}")
    return found


def _is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def main(arguments: list[str]) -> int:
    """Print what is wrong; return the exit code."""
    site = Path(arguments[0]).resolve()
    found = problems(site)
    for line in found:
        print(line, file=sys.stderr)
    print(f"docs: {len([*site.rglob('*.html')])} pages in {site}, {len(found)} problems")
    return 1 if found or not (site / "README.html").is_file() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
