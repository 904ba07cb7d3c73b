"""The sources of the site: what can be checked before it is built."""

import hashlib
import importlib
import inspect
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

MATHJAX_SHA256 = "0a6ded5abbce13331658dd239f34382abd06492c74b71b61e8caa8112ec55fa5"  # 3.2.2


@pytest.fixture(scope="module")
def book(repository: Path) -> Path:
    return repository / "book"


@pytest.fixture(scope="module")
def prose(book: Path) -> dict[str, str]:
    """The pages written in Markdown, by name."""
    return {p.relative_to(book).as_posix(): p.read_text("utf-8") for p in book.rglob("*.md")}


@pytest.fixture(scope="module")
def figures(book: Path) -> dict[str, str]:
    return {p.name: p.read_text("utf-8") for p in (book / "_static/figures").glob("*.svg")}


def test_every_room_of_the_library_has_its_place_in_the_reference(repository, prose):
    library = repository / "cmssf_lib"
    rooms = {p.stem for p in library.glob("*.py")} | {
        p.parent.name for p in library.glob("*/__init__.py")
    }
    rooms -= {"__init__", "__main__"}
    documented = re.findall(
        r"^\.\. automodule:: cmssf_lib\.(\w+)$", "\n".join(prose.values()), re.M
    )
    assert sorted(documented) == sorted(rooms)


def test_the_reference_documents_what_each_room_hands_on(repository, site, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "book" / "_ext"))
    from library_reference import offered

    reference = (site / "book/reference").glob("*.html")
    documented = set(
        re.findall(r'id="(cmssf_lib[^"]+)"', "".join(p.read_text() for p in reference))
    )
    for path in (repository / "cmssf_lib").glob("*/__init__.py"):
        room = importlib.import_module(f"cmssf_lib.{path.parent.name}")
        for name in getattr(room, "__all__", offered(path.read_text())):
            thing = getattr(room, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert f"{room.__name__}.{name}" in documented


def test_every_work_in_the_bibliography_is_cited_and_every_citation_is_in_it(book, prose):
    keys = re.findall(r"^@\w+\{([^,]+),", (book / "references.bib").read_text("utf-8"), re.M)
    cited = {
        key.strip()
        for text in prose.values()
        for group in re.findall(r"\{cite:\w+\}`([^`]+)`", text)
        for key in group.split(",")
    }
    assert len(keys) == len(set(keys))
    assert set(keys) == cited


def test_the_table_of_sources_has_the_chapters_fourteen(prose):
    table = prose["references.md"].split(":name: tab-sources")[1].split("\n:::")[0]
    rows = re.findall(r"^\* - (\d+)\n  - \{cite:t\}`(\w+)`", table, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 15))
    assert len({key for _, key in rows}) == 14


def test_no_page_quotes_a_result_by_hand(prose):
    """A percentage in prose comes from a run, through the `run` role; 100 % is only a word, a share
    of the labels is a setting, and what the source chapter claims stands in a column of its own, or
    in the protocol, which was written before the runs and cannot quote their results."""
    claims = re.sub(r"^(\* - \d.*\n)  - .*$", r"\1", prose["claims.md"], flags=re.M)
    by_hand = [
        f"{name}: {number}"
        for name, text in (prose | {"claims.md": claims}).items()
        for number in re.findall(
            r"\d+(?:\.\d+)?(?:\s| )?(?:%|percent\b|per cent\b)(?! of the labels)",
            re.sub(r"\{compare\}`[^`]+`", "", text),  # the names of comparisons
        )
        if not number.startswith("100") and name != "protocol.md"
    ]
    assert not by_hand


def test_every_claim_has_its_measurement_and_one_of_the_verdicts(prose):
    text = prose["claims.md"]
    promised = re.findall(r"^(\w.*)\n: ", text, re.M)
    assert len(promised) == 8
    rows = re.findall(r"^\* - (\d\.\d)\s(\w)\n  - (.+)\n  - (.+)\n  - (.+)$", text, re.M)
    assert len(rows) == len(re.findall(r"^\* - \d", text, re.M))
    for section in {row[0] for row in rows}:  # a, b, c … without a gap
        letters = [row[1] for row in rows if row[0] == section]
        assert letters == [chr(ord("a") + i) for i in range(len(letters))], section
    for section, letter, _, _, verdict in rows:
        assert verdict.startswith(tuple(word.lower() for word in promised)), f"{section} {letter}"


def test_figures_share_one_style(figures):
    styles = {name: re.search(r"<style>.*?</style>", svg, re.S)[0] for name, svg in figures.items()}
    assert {"architecture.svg", "pipeline.svg", "hero.svg"} <= set(styles)
    assert len(set(styles.values())) == 1, f"the <style> blocks differ: {sorted(styles)}"


def test_figures_and_site_agree_on_the_palette(book, figures):
    """A figure carries its colours; custom.css repeats them for the site's two themes."""
    css = (book / "_static/custom.css").read_text("utf-8")

    def palette(text: str) -> dict[str, str]:
        return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))

    style = re.search(r"<style>.*?</style>", figures["hero.svg"], re.S)[0]
    light, dark = style.split("@media")
    for theme, own in (("light", light), ("dark", dark)):
        block = re.search(rf'html\[data-theme="{theme}"\] \.cf \{{(.*?)\}}', css, re.S)[1]
        assert palette(block) == palette(own) != {}


def test_figures_use_no_style_that_they_lack(figures):
    for name, svg in figures.items():
        root = ElementTree.fromstring(svg)
        used = {c for e in root.iter() for c in e.get("class", "").split()} - {"cf"}
        defined = set(re.findall(r"\.cf \.([\w-]+)", svg))
        assert used <= defined, f"{name}: {used - defined}"


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_figures_can_be_read_on_light_and_dark_ground(figures):
    """axe-core does not look inside drawings, so their colours are measured here."""
    light, dark = re.search(r"<style>.*?</style>", figures["hero.svg"], re.S)[0].split("@media")
    for text in (light, dark):
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))
        pairs = [
            ("ink", "ground"),
            ("muted", "ground"),
            ("ink", "plain"),
            ("ground", "muted"),
            ("ground", "space-line"),
            ("ground", "loss-line"),
        ]
        pairs += [(f"{kind}-ink", kind) for kind in ("image", "text", "space", "loss")]
        pairs += [("loss-ink", "ground"), ("ground", "image-line"), ("ground", "text-line")]
        ratios = {pair: contrast(colour[pair[0]], colour[pair[1]]) for pair in pairs}
        assert not {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5}
        lines = [f"{kind}-line" for kind in ("image", "text", "space", "loss")] + ["line"]
        assert all(contrast(colour[line], colour["ground"]) >= 3 for line in lines)


def test_mathjax_is_shipped_whole_and_unchanged(book):
    folder = book / "_static/mathjax"
    assert hashlib.sha256((folder / "tex-chtml.js").read_bytes()).hexdigest() == MATHJAX_SHA256
    assert len(list((folder / "output/chtml/fonts/woff-v2").glob("*.woff"))) == 23
    assert "Apache License" in (folder / "LICENSE").read_text("utf-8")


def test_the_books_own_style_loads_nothing_from_elsewhere(book):
    css = (book / "_static/custom.css").read_text("utf-8")
    assert not re.findall(r"@import|url\(\s*['\"]?(?:https?:)?//", css)
