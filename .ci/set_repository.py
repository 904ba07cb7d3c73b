"""Set the repository's address, once, everywhere.

`repository.url` in `_config.yml` is the setting. Badges, Colab links, the notebooks' first cell,
the citation and the package's links carry the same address; this rewrites all of them.
Run it with `make repository URL=https://github.com/ada/book`.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTING = re.compile(r"^(repository:\s*\n(?:[ \t]+.*\n|[ \t]*\n)*?[ \t]+url:[ \t]*)(\S+)", re.M)
ADDRESS = re.compile(r"https://github\.com/([A-Za-z0-9-]+)/([A-Za-z0-9._-]+?)(?:\.git)?/?")
# Hosts that serve a repository under OWNER/NAME.
HOSTS = r"github\.com/|colab\.research\.google\.com/github/|raw\.githubusercontent\.com/"


def setting(root: Path) -> str:
    """The address that `_config.yml` holds."""
    found = SETTING.search((root / "_config.yml").read_text(encoding="utf-8"))
    if not found:
        raise ValueError("_config.yml has no `repository:` with a `url:` in it; add one")
    return found[2].strip("\"'")


def split(url: str) -> tuple[str, str]:
    """Owner and name of an address."""
    found = ADDRESS.fullmatch(url)
    if not found:
        raise ValueError(f"{url!r} is no repository: give it as https://github.com/<owner>/<name>")
    return found[1], found[2]


def files(root: Path) -> list[Path]:
    """The project's own text files: what git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    paths = [root / name for name in names.split("\0") if name]
    return [
        path for path in sorted(set(paths)) if path.is_file() and b"\0" not in path.read_bytes()
    ]


def uses(text: str) -> list[tuple[str, str]]:
    """Owner and name of every repository that the text links to."""
    found = re.findall(rf"(?:{HOSTS})([A-Za-z0-9-]+)/([A-Za-z0-9._-]*[A-Za-z0-9_-])", text)
    pages = re.findall(r"https://([A-Za-z0-9-]+)\.github\.io/([A-Za-z0-9._-]*[A-Za-z0-9_-])", text)
    return [(owner, name.removesuffix(".git")) for owner, name in found + pages]


def replace(text: str, old: tuple[str, str], new: tuple[str, str]) -> str:
    """The text with every use of the old repository turned into the new one."""
    end = r"(?![A-Za-z0-9_-])"
    text = re.sub(rf"({HOSTS}){re.escape('/'.join(old))}{end}", rf"\g<1>{'/'.join(new)}", text)
    pages = rf"https://{re.escape(old[0])}\.github\.io/{re.escape(old[1])}{end}"
    return re.sub(pages, f"https://{new[0]}.github.io/{new[1]}", text)


def main(arguments: list[str], root: Path = ROOT) -> int:
    if len(arguments) != 1 or not arguments[0]:
        sys.exit(f"usage: make repository URL=https://github.com/ada/book (now {setting(root)})")
    try:
        old, new = split(setting(root)), split(arguments[0])
    except ValueError as error:
        sys.exit(str(error))
    for path in files(root):
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        changed = replace(text, old, new)
        if changed != text:
            path.write_bytes(changed.encode("utf-8", errors="surrogateescape"))
            print(path.relative_to(root))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
