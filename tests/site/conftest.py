"""The built site, a server for it, and a real browser to look at it with."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

REQUIRE_SITE = "CMSSF_REQUIRE_SITE"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def site(repository: Path) -> Path:
    """The folder with the built site."""
    built = repository / "_build" / "html"
    if not (built / "index.html").is_file():
        reason = "there is no built site in _build/html; `make book` makes one"
        if os.environ.get(REQUIRE_SITE) == "1":
            pytest.fail(f"{reason}, and {REQUIRE_SITE}=1 asks for it", pytrace=False)
        pytest.skip(reason)
    return built


@pytest.fixture(scope="session")
def pages(site: Path) -> list[str]:
    """The address of every page below the site's root, such as ``book/intro.html``."""
    found = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    pages = [page for page in found if not page.startswith("_")]
    assert len(pages) > 5, f"only {pages} in {site}: is this a whole site?"
    return pages


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a line on the terminal for each."""

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, with a slash at the end."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of the machine; nothing is downloaded."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium here (looked for {', '.join(CHROMIUM_NAMES)})")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()
