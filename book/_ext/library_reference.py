"""Read the library's docstrings as they are written, and the names in its signatures.

The docstrings are plain prose, made for the reader of the code. Two of their habits mean something
else to Sphinx: an indented block after a colon is a drawing or an example and keeps its lines, and
a colon in the first line of a property is a colon.

Signatures name types of other libraries, and shapes such as ``'batch dim'``. Neither has a page
here: they are printed as they are, once it is certain that they exist. A room that is a folder
documents what it offers under its own name, while Python remembers the file inside; such a
reference is led to the public name. Everything else stays a warning under ``-n``.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

from docutils.nodes import Element, TextElement
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment

PACKAGE = "cmssf_lib"
LIST = re.compile(r"\s*([-*+]|\d+\.)\s")
#: Inside a shape, jaxtyping prints its array type without the module.
BARE_NAMES = {"Tensor": "torch.Tensor", "ndarray": "numpy.ndarray"}


def find(name: str) -> object | None:
    """Return what a dotted name leads to, a module or something inside one, or nothing."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                found = getattr(found, part)
        except (ImportError, AttributeError):
            continue
        return found
    return None


def public_name(target: str, known: Mapping[str, object]) -> str | None:
    """Return where the page documents `target`, a name inside a folder of the library."""
    parts = target.split(".")
    for cut in range(len(parts) - 1, 1, -1):
        candidate = ".".join(parts[: cut - 1] + parts[cut:])
        if candidate in known:
            return candidate
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: TextElement
) -> Element | None:
    """Answer Sphinx's question what to do with a reference that it cannot resolve."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    if target.startswith(("'", '"')):  # a shape
        return contnode
    target = BARE_NAMES.get(target, target)
    if target.split(".")[0] != PACKAGE:
        return contnode if "." in target and find(target) is not None else None
    if isinstance(find(target), TypeVar):  # "the same type as that argument's"
        return contnode
    domain = env.get_domain("py")
    assert isinstance(domain, PythonDomain)
    public = public_name(target, domain.objects)
    if public is None:
        return None
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], public, node, contnode
    )


def keep_prose(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Mark indented blocks as literal, and keep a property's first line from being split."""
    for number in range(len(lines) - 2):
        line, gap, block = lines[number : number + 3]
        deeper = len(block) - len(block.lstrip()) > len(line) - len(line.lstrip())
        introduced = re.search(r"[^:]:\s*$", line) and not gap.strip()
        if introduced and deeper and LIST.match(block) is None:
            lines[number] = line.rstrip() + ":"
    if what in ("property", "attribute", "data") and lines:
        # Napoleon takes "Such: as this" in the first line for a type and its description. So the
        # first line becomes one that prints as nothing: an escaped line break.
        lines.insert(0, "\\")


def only_ours(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Leave out methods that another library generates into a class of ours."""
    module = getattr(thing, "__module__", None) or PACKAGE
    generated = inspect.isfunction(thing) and module.split(".")[0] != PACKAGE
    return True if generated else None


def offered(source: str) -> list[str]:
    """Return what a room hands on (``from … import X as X``) and what it defines, in this order.

    To Sphinx an imported name belongs elsewhere, unless the module lists it in ``__all__``. The
    rooms say it where they import it, and nowhere a second time.
    """
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            names += [each.name for each in node.names if each.asname == each.name]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]


def list_what_rooms_offer(app: Sphinx) -> None:
    """Give every room that is a folder the list that autodoc looks for."""
    library = Path(str(importlib.import_module(PACKAGE).__file__)).parent
    for path in sorted(library.glob("*/__init__.py")):
        room = importlib.import_module(f"{PACKAGE}.{path.parent.name}")
        room.__dict__.setdefault("__all__", offered(path.read_text(encoding="utf-8")))
        for kind in vars(room).values():
            if inspect.isclass(kind) and is_dataclass(kind):
                kind.__signature__ = without_bounds(kind)  # type: ignore[attr-defined]


def without_bounds(kind: type) -> inspect.Signature:
    """Return how settings are made, ``lr: float`` for ``lr: Annotated[float, Gt(gt=0)]``."""
    hints, signature = get_type_hints(kind), inspect.signature(kind)
    return signature.replace(
        parameters=[
            each.replace(annotation=hints.get(each.name, each.annotation))
            for each in signature.parameters.values()
        ]
    )


def setup(app: Sphinx) -> dict[str, object]:
    """Ask after Sphinx's own resolvers, and read docstrings before Napoleon does."""
    app.connect("builder-inited", list_what_rooms_offer)
    app.connect("missing-reference", resolve, priority=900)
    app.connect("autodoc-process-docstring", keep_prose, priority=400)
    app.connect("autodoc-skip-member", only_ours)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
