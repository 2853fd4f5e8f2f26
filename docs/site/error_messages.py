"""Every message of an error that a user can act on, read from the source of a2s."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[2]
ERRORS = {
    *("A2SError", "ConfigError", "DataError", "StorageError"),
    *("LabelError", "CheckpointError", "WeightsError"),
}
# Functions whose result is called after their argument.
TRANSPARENT = {"len", "max", "min", "printable", "str", "_named", "_one_line"}
_NAMED = r"⟨(\w+)⟩"


class Message(NamedTuple):
    """One message, with capital names for what differs from case to case."""

    file: str
    """Path below `a2s/`."""
    text: str


def messages() -> list[Message]:
    """All messages in the order of files and lines, each once per file."""
    found = [Message(file, text) for file, _, texts in _read() for text in texts]
    return list(dict.fromkeys(found))


def unread() -> set[str]:
    """Where the text of an error is none that can be read here: `file: expression`."""
    return {f"{file}: {expression}" for file, expression, texts in _read() if not texts}


@functools.cache
def _read() -> tuple[tuple[str, str, list[str]], ...]:
    """File below `a2s/`, expression and texts of every error that is made."""
    trees = {
        str(path.relative_to(REPO / "a2s")): ast.parse(path.read_text("utf-8"))
        for path in sorted((REPO / "a2s").rglob("*.py"))
    }
    named = {name: value for tree in trees.values() for name, value in _constants(tree)}
    return tuple(
        (file, ast.unparse(node.args[0]), [*_texts(node.args[0], tree, named)])
        for file, tree in trees.items()
        for node in _calls(tree, config=file.startswith("config/"))
    )


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _calls(tree: ast.Module, *, config: bool) -> Iterator[ast.Call]:
    """Where errors are made; in settings `ValueError` becomes a line of the same kind."""
    makers = ERRORS | {"complain"} | ({"ValueError"} if config else set())
    for node in ast.walk(tree):
        named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
        if named and node.func.id in makers:
            yield node


def _texts(node: ast.expr, tree: ast.Module, named: dict[str, ast.expr]) -> Iterator[str]:
    """What an expression may say; nothing for the text of another error that is passed on."""
    if isinstance(node, ast.IfExp):
        yield from _texts(node.body, tree, named)
        yield from _texts(node.orelse, tree, named)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        yield from _returned(node.func.id, tree, named)
    elif isinstance(node, ast.Name):
        values = [*_assigned(node.id, tree), *([named[node.id]] if node.id in named else [])]
        for value in values[:1]:
            yield from _texts(value, tree, named)
    elif isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
        text = " ".join(_readable(_template(node)).split())
        if re.search("[a-z]", text):
            yield text


def _returned(function: str, tree: ast.Module, named: dict[str, ast.expr]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Return) and inner.value is not None:
                    yield from _texts(inner.value, tree, named)


def _assigned(name: str, tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            yield node.value


def _readable(template: str) -> str:
    """Placeholders that touch a letter or each other say nothing by their names."""
    template = re.sub(rf"(?<=\w){_NAMED}|{_NAMED}(?=\w)", "…", template)
    template = re.sub(rf"(?:{_NAMED}|…)(?:{_NAMED}|…)+", "…", template)
    return re.sub(_NAMED, r"\1", template)


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    if isinstance(node, ast.FormattedValue):
        return _placeholder(node.value)
    return "…"


def _placeholder(node: ast.expr) -> str:
    """`OUT` in brackets for `config.out`; `…` for what has no name."""
    while isinstance(node, ast.Call) and ast.unparse(node.func) in TRANSPARENT:
        node = node.args[0]
    if isinstance(node, ast.Attribute):
        return f"⟨{node.attr.strip('_').upper()}⟩"
    return f"⟨{node.id.strip('_').upper()}⟩" if isinstance(node, ast.Name) else "…"
