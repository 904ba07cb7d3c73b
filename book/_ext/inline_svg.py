"""Put the book's own drawings into the page itself, so that they follow its light and dark theme.

An SVG behind ``<img>`` sees the reader's system but not the theme button. An image or figure with
the class ``inline-svg`` is therefore written as ``<svg>``. Its alt text becomes the label that
screen readers read, and a box around it scrolls sideways where the screen is narrower than the
drawing. Other builders, and other programs that read the page, keep the plain image.
"""

import html
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

# The file's own title is a short one for use outside the page; inside, the alt text replaces it.
TITLE = re.compile(r"\s*<title\b.*?</title>", re.DOTALL)
LABEL = re.compile(r'\baria-labelledby="[^"]*"')


def inline(svg: str, alt: str) -> str:
    """Return the markup for a page: labelled with `alt`, without ids, in a box that scrolls.

    Raises:
        ValueError: If the drawing has no ``aria-labelledby`` that the label can take the place of.
    """
    label = f'aria-label="{html.escape(alt, quote=True)}"'
    svg, replaced = LABEL.subn(lambda _: label, TITLE.sub("", svg), count=1)
    if not replaced:
        raise ValueError("the <svg> needs an aria-labelledby that names its <title>")
    box = 'class="inline-svg" tabindex="0" role="group" aria-label="Drawing"'
    return f"<div {box}>{svg.strip()}</div>"


def replace_images(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace every marked image of an HTML page by its drawing."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if "inline-svg" not in image.get("classes", []):
            continue
        alt = image.get("alt", "").strip()
        if not alt:
            logger.warning("inline-svg image %s has no alt text", image["uri"], location=image)
            continue
        source = (Path(app.srcdir) / image["uri"]).read_text(encoding="utf-8")
        try:
            markup = inline(source, alt)
        except ValueError as error:
            logger.warning("%s: %s", image["uri"], error, location=image)
            continue
        image.replace_self(nodes.raw("", markup, format="html"))


def setup(app: Sphinx) -> dict[str, object]:
    """Run once all references are resolved: numbering and captions are done by then."""
    app.connect("doctree-resolved", replace_images)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
