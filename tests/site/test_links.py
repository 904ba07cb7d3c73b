"""The built site, read as files: links, anchors, downloads, Colab buttons, reach."""

import subprocess
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest
import yaml

bs4 = pytest.importorskip("bs4")
pytestmark = pytest.mark.site
COLAB = "https://colab.research.google.com/github/"


@pytest.fixture(scope="module")
def parsed(site, pages):
    """Every page as a tree."""
    return {
        page: bs4.BeautifulSoup((site / page).read_text(encoding="utf-8"), "html.parser")
        for page in pages
    }


@pytest.fixture(scope="module")
def tracked(repository: Path) -> set[str]:
    """The files that a reader gets with the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout, so nothing says which files are tracked")
    return set(listing.stdout.decode().split("\0"))


@pytest.fixture(scope="module")
def config(repository: Path) -> dict:
    return yaml.safe_load((repository / "_config.yml").read_text(encoding="utf-8"))


def targets(page: str, tree) -> list[tuple[str, str]]:
    """All (file, anchor) pairs inside the site that a page refers to."""
    found = []
    for element in tree.find_all(["a", "link", "img", "script", "source"]):
        address = element.get("href") or element.get("src")
        if not address or urlparse(address).scheme or address.startswith("//"):
            continue
        parts = urlparse(urljoin("/" + page, address))
        found.append((unquote(parts.path).lstrip("/"), unquote(parts.fragment)))
    return found


def test_every_internal_link_leads_somewhere(site, parsed):
    broken = []
    for page, tree in parsed.items():
        for path, anchor in targets(page, tree):
            file = site / (path or "index.html")
            if not file.is_file():
                broken.append(f"{page} -> {path}: no such file")
            elif anchor and path in parsed and parsed[path].find(id=anchor) is None:
                broken.append(f"{page} -> {path}#{anchor}: no such anchor")
    assert not broken, "\n".join(sorted(set(broken)))


def test_a_page_loads_nothing_from_another_host(parsed):
    """What a browser fetches by itself: scripts, styles, images, icons. Links may lead out."""
    foreign = []
    for page, tree in parsed.items():
        loaded = [e.get("src") for e in tree.find_all(["script", "img", "iframe", "source"])]
        loaded += [
            e.get("href")
            for e in tree.find_all("link")
            if set(e.get("rel") or []) & {"stylesheet", "icon", "preload", "preconnect"}
        ]
        foreign += [f"{page}: {url}" for url in loaded if url and urlparse(url).netloc]
    assert not foreign, "\n".join(foreign)


def test_every_page_is_reached_from_the_table_of_contents(parsed):
    """From the first page, by the links of the sidebar alone; Sphinx's own index pages excepted."""
    start = "book/intro.html"
    sidebar = parsed[start].select("nav.bd-links a, .sidebar-primary-items__start a")
    reached = {start}
    for link in sidebar:
        path = urlparse(urljoin("/" + start, link.get("href", ""))).path.lstrip("/")
        reached.add(path)
    for page in list(reached):  # subpages are listed under the page they belong to
        for link in parsed[page].select("nav.bd-links a") if page in parsed else []:
            reached.add(urlparse(urljoin("/" + page, link.get("href", ""))).path.lstrip("/"))
    own = {"index.html", "search.html", "genindex.html"}
    assert set(parsed) - own - reached == set()


def test_the_table_of_contents_lists_tracked_sources(repository, tracked):
    toc = yaml.safe_load((repository / "book/_toc.yml").read_text(encoding="utf-8"))

    def files(node):
        if isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for child in node.values():
                yield from files(child)
        elif isinstance(node, list):
            for child in node:
                yield from files(child)

    listed = list(files(toc))
    assert len(listed) == len(set(listed)) > 5
    missing = [f for f in listed if not {f"{f}.md", f"{f}.ipynb"} & tracked]
    assert not missing


def test_without_an_address_no_page_has_a_button_that_leads_to_one(parsed, config):
    if "repository" in config:
        pytest.skip("the repository's address is set; the next test looks at its buttons")
    for page, tree in parsed.items():
        for button in tree.select(
            "a.btn-source-repository-button, a.btn-source-issues-button, "
            ".dropdown-launch-buttons a, "
            f'a[href^="{COLAB}"], a[href*="executablebooks/jupyter-book"]'
        ):
            pytest.fail(f"{page}: a button leads to {button.get('href')}")


def test_every_notebook_page_has_a_colab_button_to_a_tracked_file(parsed, tracked, config):
    if "repository" not in config:
        pytest.skip("no address is set (make repository URL=…), so no page has a Colab button")
    repository, branch = config["repository"]["url"], config["repository"]["branch"]
    prefix = f"{COLAB}{urlparse(repository).path.strip('/')}/blob/{branch}/"
    notebooks = [page for page in parsed if page.startswith("notebooks/")]
    assert notebooks
    for page in notebooks:
        buttons = [a["href"] for a in parsed[page].select(f'a[href^="{COLAB}"]')]
        assert buttons, f"{page} has no Colab button"
        for address in buttons:
            assert address.startswith(prefix), f"{page}: {address} is not in {prefix}"
            assert address.removeprefix(prefix) in tracked, f"{page}: {address} is not tracked"
            if address in buttons[:1]:
                assert address == f"{prefix}{page.removesuffix('.html')}.ipynb"


def test_every_page_can_be_downloaded_as_its_source(site, repository, parsed):
    for page, tree in parsed.items():
        buttons = tree.select("a.btn-download-source-button")
        if not page.startswith(("book/", "notebooks/")):
            continue
        assert buttons, f"{page} has no download button"
        for button in buttons:
            path = urlparse(urljoin("/" + page, button["href"])).path.lstrip("/")
            source = repository / path.removeprefix("_sources/")
            assert (site / path).read_bytes() == source.read_bytes(), f"{page}: {path} differs"


def test_figures_are_numbered_and_named(parsed):
    figures = parsed["book/method.html"].find_all("figure")
    numbers = [f.select_one(".caption-number").get_text(strip=True) for f in figures]
    assert numbers == ["Figure 1", "Figure 2"]
    assert [f.get("id") for f in figures] == ["fig-architecture", "fig-pipeline"]
    for figure in figures:
        assert len(figure.select_one("svg")["aria-label"]) > 100


def test_this_build_executed_the_quickstart_and_no_other_notebook(parsed):
    """The status page holds the build's own record of what it ran."""
    record = parsed["book/status.html"].select("table")[0]  # recorded runs stand below it
    rows = record.select("tbody tr")
    cells = [[cell.get_text(" ", strip=True) for cell in row.find_all("td")] for row in rows]
    assert [row[0] for row in cells] == ["notebooks/00_quickstart"], cells
    assert rows[0].get_text().count("✅") == 1, cells
