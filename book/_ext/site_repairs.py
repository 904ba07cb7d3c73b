"""Repair what Sphinx and its theme write wrongly, so that every reader gets a sound page.

Four things, each found by the tests in ``tests/site``:

- Jupyter Book loads the live-code library Thebe on every page, twice, which is an error in the
  browser's console. The book does not use it: it is taken out.
- The sidebar's fold-out buttons have no name for a screen reader.
- A signature of several lines is written as a definition list without terms.
- The bibliography is written as a list without items.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

SIGNATURE_LINES = re.compile(r"<dl>\s*((?:<dd>(?:(?!</?d[ld]\b).)*</dd>\s*)+)</dl>", re.DOTALL)


def without_thebe(app: Sphinx, config: Config) -> None:
    """Disconnect sphinx-thebe from reading and writing pages, before the first page is read."""
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners.get(event, ())):
            if listener.handler.__module__.startswith("sphinx_thebe"):
                app.disconnect(listener.id)


def repair_body(body: str) -> str:
    """Return a page's HTML with its signatures and its bibliography marked up as what they are."""

    def as_lines(match: re.Match[str]) -> str:
        lines = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
        return f'<span class="sig-lines">{lines}</span>'

    body = SIGNATURE_LINES.sub(as_lines, body)
    body = body.replace('<div role="list" class="citation-list">', '<div class="citation-list">')
    return body.replace(' role="doc-biblioentry"', "")


def repair_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Repair one page between its making and its writing."""
    if "body" in context:
        context["body"] = repair_body(context["body"])
    make_sidebar = context.get("generate_toctree_html")
    if make_sidebar is not None:

        def named_sidebar(*arguments: object, **options: object) -> object:
            made = make_sidebar(*arguments, **options)
            for summary in made.find_all("summary") if hasattr(made, "find_all") else ():
                link = summary.find_parent("li").find("a")
                summary["aria-label"] = f"Pages of {link.get_text(strip=True)}"
            return made

        context["generate_toctree_html"] = named_sidebar


def setup(app: Sphinx) -> dict[str, object]:
    """Run last among those who change the configuration or a page's context."""
    app.connect("config-inited", without_thebe, priority=900)
    app.connect("html-page-context", repair_page, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
