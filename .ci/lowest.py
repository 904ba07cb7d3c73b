"""Print the oldest versions that `pyproject.toml` allows, as pins that pip installs.

Every `>=` bound of the library, and of what its tests need, becomes `==`. The bounds are true only
as long as the tests pass with them: `make lowest` installs them in a virtual environment of its
own and runs the library's tests there.
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# What the library's tests need of the extras; oracles, site, linters and benchmarks are left out.
TESTS = (
    *("pytest", "pytest-xdist", "hypothesis", "beartype", "pyyaml"),
    *("nbformat", "nbclient", "ipykernel"),  # test_devices runs the chapters on a second device
)


def lowest(project: dict[str, Any], tests: Sequence[str] = TESTS) -> list[str]:
    """The pins of a parsed `pyproject.toml`.

    Raises:
        ValueError: A requirement has no lower bound, or a name of `tests` stands in no extra.
    """
    extras = project["project"]["optional-dependencies"].values()
    bounds = {line.partition(">=")[0]: line for extra in extras for line in extra}
    missing = [name for name in tests if name not in bounds]
    if missing:
        raise ValueError(f"no extra of pyproject.toml names {', '.join(missing)}; add it to one")
    pins = []
    for line in [*project["project"]["dependencies"], *(bounds[name] for name in tests)]:
        name, found, version = line.partition(">=")
        if not found:
            raise ValueError(f"{line!r} of pyproject.toml has no lower bound: write name>=version")
        pins.append(f"{name}=={version.partition(',')[0]}")
    return pins


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    print(*lowest(project), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
