"""Every page of the built site, opened in a real browser, in light and in dark."""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlparse

import pytest

pytestmark = pytest.mark.site
THEME = "document.documentElement.dataset.theme"
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}


@dataclass
class Visit:
    """What was seen on one page in one theme."""

    page: str
    theme: str
    status: int = 0
    theme_shown: str = ""
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    raw_maths: int = 0
    maths: int = 0
    phone_width: int = 0


def open_page(context, address: str, visit: Visit):
    """Open a page and note what goes wrong; a request to another host is noted and refused."""
    tab = context.new_page()

    def guard(route):
        if route.request.url.startswith(address):
            route.continue_()
        else:
            visit.foreign.append(route.request.url)
            route.abort()

    tab.route("**/*", guard)
    tab.on("console", lambda m: visit.errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: visit.errors.append(str(error)))
    tab.on(
        "response",
        lambda r: visit.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None,
    )
    visit.status = tab.goto(address + visit.page, wait_until="load").status
    return tab


def settle(tab) -> None:
    """Wait until a page that leads on has done so, and until MathJax has set the formulas."""
    tab.wait_for_load_state("networkidle")
    tab.evaluate("async () => { if (window.MathJax?.startup) await MathJax.startup.promise; }")


IMAGES = """all => all.map(i => ({
    source: i.getAttribute("src") ?? "inline drawing",
    alt: i.getAttribute(i.tagName === "IMG" ? "alt" : "aria-label"),
    loaded: i.tagName !== "IMG" || (i.complete && i.naturalWidth > 0)}))"""


def serious(axe, tab, **options: object) -> list[str]:
    """What axe-core holds for serious or worse on the page as it is shown now."""
    # Without "preload", axe would fetch style sheets once more, and look for some in wrong places.
    violations = axe.run(tab, options={"preload": False, **options}).response["violations"]
    return [
        f"{found['impact']} {found['id']}: {node['html'][:160]}"
        for found in violations
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.fixture(scope="module")
def visits(browser, address, pages) -> list[Visit]:
    """Every page, first in light, then in dark, where only the colours are looked at again."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    seen = []
    context = browser.new_context(viewport=DESKTOP, color_scheme="light")
    for page in pages:
        light, dark = Visit(page, "light"), Visit(page, "dark")
        tab = open_page(context, address, light)
        settle(tab)
        light.theme_shown = tab.evaluate(THEME)
        light.images = tab.eval_on_selector_all("img, .inline-svg > svg", IMAGES)
        light.maths = tab.locator("mjx-container").count()
        light.raw_maths = tab.locator(".math").count()
        light.violations = serious(axe, tab)
        tab.add_style_tag(content="* { transition: none !important }")  # no colour in between
        tab.emulate_media(color_scheme="dark")
        tab.wait_for_function(f"{THEME} === 'dark'")
        dark.status, dark.theme_shown = light.status, tab.evaluate(THEME)
        colours = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
        dark.violations = serious(axe, tab, runOnly=colours)
        tab.set_viewport_size(PHONE)
        light.phone_width = tab.evaluate("document.documentElement.scrollWidth")
        tab.close()
        seen += [light, dark]
    context.close()
    return seen


def listed(visits: list[Visit], what) -> str:
    """One line for each complaint, with the page and theme it was seen on."""
    return "\n".join(f"{v.page} ({v.theme}): {line}" for v in visits for line in what(v))


def test_every_page_opens(visits):
    assert not listed(visits, lambda v: [] if v.status == 200 else [f"status {v.status}"])
    assert not listed(visits, lambda v: v.failed)


def test_the_theme_follows_the_readers_system(visits):
    assert not listed(
        visits, lambda v: [] if v.theme_shown == v.theme else [f"shows {v.theme_shown}"]
    )


def test_no_page_complains_in_the_console(visits):
    assert not listed(visits, lambda v: v.errors)


def test_no_request_leaves_the_site(visits):
    assert not listed(visits, lambda v: v.foreign)


def test_every_image_loads(visits):
    assert any(v.images for v in visits)
    assert not listed(visits, lambda v: [i["source"] for i in v.images if not i["loaded"]])


def test_every_image_says_what_it_shows(visits):
    """An alt text is words, not a file name; an image that only decorates may have an empty one."""

    def complaints(visit: Visit) -> list[str]:
        found = []
        for image in visit.images:
            alt = (image["alt"] or "").strip()
            name = PurePosixPath(urlparse(image["source"]).path).name
            if " " not in alt or name in alt or re.search(r"\.(png|svg|jpe?g|gif|webp)\b", alt):
                found.append(f"{image['source']} has alt text {alt!r}")
        return found

    assert not listed(visits, complaints)


def test_axe_finds_no_serious_violation(visits):
    assert not listed(visits, lambda v: v.violations)


def test_formulas_are_set(visits):
    assert not listed(
        visits,
        lambda v: (
            [] if v.maths >= v.raw_maths else [f"{v.maths} of {v.raw_maths} formulas are set"]
        ),
    )
    with_maths = {v.page for v in visits if v.maths}
    assert "book/method.html" in with_maths


def test_the_reader_can_change_the_theme(browser, address):
    visit = Visit("book/intro.html", "light")
    context = browser.new_context(viewport=DESKTOP, color_scheme="light")
    tab = open_page(context, address, visit)
    ground = "getComputedStyle(document.body).backgroundColor"
    before = tab.evaluate(ground)
    for _ in range(3):  # the button goes round: light, dark, as the system says
        if tab.evaluate(THEME) == "dark":
            break
        tab.locator(".theme-switch-button:visible").first.click()
    assert tab.evaluate(THEME) == "dark"
    assert tab.evaluate(ground) != before
    context.close()


@pytest.mark.parametrize(
    ("words", "page"),
    [("contrastive", "book/glossary"), ("vision transformer", "book/method")],
)
def test_search_finds_the_page(browser, address, words, page):
    context = browser.new_context(viewport=DESKTOP)
    tab = open_page(context, address, Visit(f"search.html?q={words.replace(' ', '+')}", "light"))
    tab.wait_for_selector("#search-results ul.search li a", timeout=20_000)
    tab.wait_for_function(
        "!document.querySelector('#search-results h2')?.textContent.includes('…')"
    )
    links = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
    assert any(page in link for link in links), links
    context.close()


def test_search_finds_nothing_where_there_is_nothing(browser, address):
    context = browser.new_context(viewport=DESKTOP)
    tab = open_page(context, address, Visit("search.html?q=zyxwvutsrq", "light"))
    tab.wait_for_selector("#search-results p.search-summary", timeout=20_000)
    tab.wait_for_function(
        "document.querySelector('#search-results p.search-summary').textContent.includes('did not')"
    )
    assert tab.locator("#search-results li").count() == 0
    context.close()


def test_no_page_is_wider_than_a_phone(visits):
    wide = [f"{v.page}: {v.phone_width} pixels" for v in visits if v.phone_width > PHONE["width"]]
    assert not wide
    assert all(v.phone_width for v in visits if v.theme == "light")
