"""The site of the documents: `make docs` builds it with Sphinx, offline, into build/site/.

Its source is the repository itself, so that pages, README and room READMEs link to each other as
they do on a Git host. Files that are no pages (results, programs) become downloads.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from a2s import __version__

HERE = Path(__file__).parent
CONTENTS = {"README": "contents.md", "ARCHITECTURE": "rooms.md"}

project = "a2s"
version = release = __version__
author = "the authors of a2s"
html_title = f"a2s {__version__}"

root_doc = "README"
include_patterns = [
    *("*.md", "docs/*.md", "docs/tutorials/*.md", "launch/README.md", "examples/README.md"),
    *("a2s/**/README.md", "a2s/models/weights/CARD.md", "benchmarks/ablations/README.md"),
    "benchmarks/results/real_run.md",
    "benchmarks/results/whole_run.md",
]
exclude_patterns = [".*", "**/.*", "build", "dist", "runs", "data", "tests", "shared", "docs/site"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["epub.unknown_project_files"]

# Docstrings mark code with single backticks.
default_role = "literal"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["a2s.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "to_readme.html"}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Give two pages their tables of contents, which a Git host would show as code."""
    if name in CONTENTS:
        source[0] += (HERE / CONTENTS[name]).read_text("utf-8")


def inline_math(writer: HTML5Translator, node: nodes.math) -> None:
    """Write an equation as MathML, which browsers draw without a script from elsewhere."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def displayed_math(writer: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation on a line of its own."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect what Sphinx has no setting for."""
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    app.connect("source-read", add_contents)
    # A Git host draws these diagrams; the site shows their text.
    app.add_lexer("mermaid", TextLexer)
