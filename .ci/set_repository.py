"""Set the repository's address everywhere at once, or take it out again.

Until the book has an address, nothing may lead to one: no badge, no Colab button, no clone line.
`PLACES` lists every place that would, with the text it has without an address and the text it has
with one; this turns the one into the other.
`make repository URL=https://github.com/ada/book` sets it, `make repository URL=none` takes it out.
"""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9-]+)/([A-Za-z0-9._-]+?)(?:\.git)?/?")
SETTING = re.compile(r"^repository:\n  url: (\S+)$", re.M)  # in _config.yml
# What stands for the parts of an address in the texts, and what each may be.
PARTS = {"<owner>": r"[A-Za-z0-9-]+", "<name>": r"[A-Za-z0-9._-]*[A-Za-z0-9_-]"}
REPOSITORY = "https://github.com/<owner>/<name>"
COLAB = "https://colab.research.google.com/github/<owner>/<name>/blob/main/notebooks"


class Place(NamedTuple):
    """A place that names the address: its files, and its text in both states."""

    files: str  # a pattern, from the project's root
    without: str
    with_address: str


FIRST_CELL = (
    '    assert os.path.isdir("cmssf"), "Upload cmssf.zip (see README), then !unzip -q cmssf.zip"',
    f"    !test -d cmssf || git clone --depth 1 -q {REPOSITORY} cmssf",
)
LICENCE_BADGE = "[![Code: MIT]"
PLACES = (
    Place(
        "README.md",
        f"# CMSSF, the book that runs\n\n{LICENCE_BADGE}",
        "# CMSSF, the book that runs\n\n"
        f"[![test]({REPOSITORY}/actions/workflows/test.yml/badge.svg)]"
        f"({REPOSITORY}/actions/workflows/test.yml)\n"
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"({COLAB}/00_quickstart.ipynb)\n"
        f"{LICENCE_BADGE}",
    ),
    Place(
        "README.md",
        "In this folder, two commands do everything:\n\n```bash\n",
        f"Two commands do everything:\n\n```bash\ngit clone --depth 1 {REPOSITORY} && cd <name>\n",
    ),
    Place(
        "README.md",
        "- **Colab**: `git archive --prefix cmssf/ -o cmssf.zip HEAD` packs the book. In Colab, "
        "upload a notebook\n  and the zip file, and run `!unzip -q cmssf.zip` before the first "
        "cell.\n",
        "- **Colab**: press the badge above, or the rocket on a notebook's page. The first cell "
        "fetches the\n  book and installs the library.\n",
    ),
    Place(
        "book/intro.md",
        ": Upload a notebook to Google Colab, and the book's folder as a zip file; the README says "
        "how.\n  Its first cell installs what it needs.\n",
        ": On a notebook's page, the rocket button opens the notebook in Google Colab.\n"
        "  Its first cell installs what it needs.\n",
    ),
    Place(
        "book/intro.md",
        ": In the book's folder, call `make lab`.\n",
        f": Clone [the repository]({REPOSITORY}) and call `make lab`.\n",
    ),
    Place(
        "_config.yml",
        "# No address yet: `make repository URL=…` puts it here.\n",
        f"repository:\n  url: {REPOSITORY}\n  branch: main\n"
        "launch_buttons:\n  colab_url: https://colab.research.google.com\n",
    ),
    Place(
        "_config.yml",
        "  use_repository_button: false\n  use_issues_button: false\n",
        "  use_repository_button: true\n  use_issues_button: true\n",
    ),
    Place(
        "pyproject.toml",
        "\n[tool.setuptools.packages.find]\n",
        f'\n[project.urls]\nRepository = "{REPOSITORY}"\nIssues = "{REPOSITORY}/issues"\n'
        "\n[tool.setuptools.packages.find]\n",
    ),
    Place("CITATION.cff", "\nlicense:\n", f"\nrepository-code: {REPOSITORY}\nlicense:\n"),
    Place("tests/notebooks/first_cell.py.txt", *FIRST_CELL),
    # In a notebook's file a line of code is a string of JSON.
    Place("notebooks/*.ipynb", *(json.dumps(line)[:-1] for line in FIRST_CELL)),
)


def setting(root: Path) -> str | None:
    """The address that `_config.yml` holds, if any."""
    found = SETTING.search((root / "_config.yml").read_text(encoding="utf-8"))
    return found[1] if found else None


def split(url: str) -> tuple[str, str]:
    """Owner and name of an address."""
    found = ADDRESS.fullmatch(url)
    if not found:
        raise ValueError(f"{url!r} is no repository: give it as https://github.com/<owner>/<name>")
    return found[1], found[2]


def changed(text: str, place: Place, address: tuple[str, str] | None) -> str:
    """The text with one of its places as the address asks for.

    Raises:
        ValueError: The text has the place in neither state.
    """
    known = re.escape(place.with_address)
    for part, pattern in PARTS.items():
        known = known.replace(re.escape(part), pattern)
    new = place.without
    if address:
        new = place.with_address.replace("<owner>", address[0]).replace("<name>", address[1])
    # The longer text first: one state's text may stand inside the other's.
    text, count = re.subn(f"{known}|{re.escape(place.without)}", lambda _: new, text, count=1)
    if not count:
        raise ValueError(f"this text has changed, and .ci/set_repository.py not: {place.without!r}")
    return text


def set_address(address: tuple[str, str] | None, root: Path) -> list[Path]:
    """Give every place the address, or none; return the files that are different now.

    Raises:
        ValueError: A file lacks one of its places. No file is changed then.
    """
    texts: dict[Path, str] = {}
    for place in PLACES:
        for path in sorted(root.glob(place.files)):
            before = texts.get(path) or path.read_bytes().decode("utf-8")
            try:
                texts[path] = changed(before, place, address)
            except ValueError as error:
                raise ValueError(f"{path.relative_to(root)}: {error}") from None
    different = [p for p, text in texts.items() if text.encode("utf-8") != p.read_bytes()]
    for path in different:
        path.write_bytes(texts[path].encode("utf-8"))
    return different


def main(arguments: list[str], root: Path = ROOT) -> int:
    if len(arguments) != 1 or not arguments[0]:
        now = setting(root) or "none"
        sys.exit(f"usage: make repository URL=https://github.com/ada/book (now: {now})")
    try:
        address = None if arguments[0] == "none" else split(arguments[0])
        for path in set_address(address, root):
            print(path.relative_to(root).as_posix())
    except ValueError as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
