"""Read again what Sphinx cannot know to be out of date when a site is built a second time.

- The quickstart shows what the library does. It is executed again when any file of the library is
  newer than its last execution, not only when the notebook itself has changed.
- The references and the status page are made out of the other pages. They are read at every build.
"""

from pathlib import Path

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

EXECUTED = ("notebooks/00_quickstart",)
LIBRARY = "cmssf_lib"
MADE_FROM_OTHERS = ("book/references", "book/status")


def outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Name the pages to read again."""
    library = (Path(app.srcdir) / LIBRARY).rglob("*.py")
    newest = max((path.stat().st_mtime_ns // 1000 for path in library), default=0)
    # Sphinx keeps the time of the last reading in microseconds.
    stale = [page for page in EXECUTED if env.all_docs.get(page, 0) < newest]
    return [page for page in (*stale, *MADE_FROM_OTHERS) if page in env.found_docs]


def setup(app: Sphinx) -> dict[str, object]:
    """Join in where Sphinx asks which pages are out of date."""
    app.connect("env-get-outdated", outdated)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
