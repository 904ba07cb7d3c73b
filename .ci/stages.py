"""Run every check of the project, go on after a failure, and end with one line that sums them up.

The stages run one after the other, because the book's promise is two processor cores: the unit
tests share them between processes of one thread each; the notebooks, which train, get both.
Run it with `make test`.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "_build" / "reports"
WORKERS = str(min(4, os.cpu_count() or 1))
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
OUTCOMES = ("failed", "passed", "skipped", "errors")


@dataclass(frozen=True)
class Stage:
    """One command; a pytest stage reports its tests, any other only whether it went well."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def is_pytest(self) -> bool:
        return self.command[0] == "pytest"


def stage(name: str, command: str, **environment: str) -> Stage:
    return Stage(name, tuple(command.split()), tuple(environment.items()))


STAGES = (
    stage("lint", "ruff check ."),
    stage("format", "ruff format --check ."),
    stage("types", "mypy"),
    stage("book", "make --no-print-directory book"),
    # In the order of their names: the few and long tests of devices would otherwise come last, and
    # all but one worker would wait for them.
    stage(
        "library",
        f"pytest tests --ignore=tests/site -n {WORKERS} --dist loadfile --no-loadscope-reorder",
        **ONE_THREAD,
    ),
    stage(
        "notebooks",
        "pytest notebooks --nbval-lax --nbval-current-env -p no:xdist",
        CMSSF_PRESET="quick",
        TQDM_DISABLE="1",
    ),
    stage("site", "pytest tests/site", CMSSF_REQUIRE_SITE="1"),
)


def counts(report: Path) -> dict[str, int]:
    """How many tests failed, passed, were skipped or could not run, from pytest's JUnit file."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total = dict.fromkeys(OUTCOMES, 0)
    for suite in suites:
        found = {
            name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        }
        total["failed"] += found["failures"]
        total["errors"] += found["errors"]
        total["skipped"] += found["skipped"]
        total["passed"] += found["tests"] - found["failures"] - found["errors"] - found["skipped"]
    return total


def run(stage: Stage) -> dict[str, int]:
    """Run one stage; what it did not report as a failed test but ended badly is one error."""
    report = REPORTS / f"{stage.name}.xml"
    report.unlink(missing_ok=True)
    command = [*stage.command]
    if stage.is_pytest:
        command = [sys.executable, "-m", *command, f"--junitxml={report}"]
    try:
        code = subprocess.run(
            command, cwd=ROOT, env=os.environ | dict(stage.environment)
        ).returncode
    except OSError as error:  # the tool is not there; the other stages can still tell something
        print(f"{command[0]} could not be run: {error}", flush=True)
        code = 1
    result = counts(report) if report.exists() else dict.fromkeys(OUTCOMES, 0)
    if code and not (result["failed"] or result["errors"]):
        result["errors"] += 1
    return result


def closing_line(total: dict[str, int], seconds: float) -> str:
    """The sum of all stages, in the words with which pytest closes."""
    parts = [f"{total[name]} {name}" for name in OUTCOMES if total[name]]
    return f" {', '.join(parts) or 'no tests ran'} in {seconds:.2f}s ".center(80, "=")


def main() -> int:
    REPORTS.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    total = dict.fromkeys(OUTCOMES, 0)
    lines = []
    for stage in STAGES:
        print(f"\n--- {stage.name}: {' '.join(stage.command)}", flush=True)
        begin = time.perf_counter()
        result = run(stage)
        bad = result["failed"] + result["errors"]
        seconds = time.perf_counter() - begin
        tests = ", ".join(f"{result[name]} {name}" for name in OUTCOMES if result[name])
        lines.append(f"{'FAILED' if bad else 'ok':<8}{stage.name:<12}{seconds:7.0f} s  {tests}")
        total = {name: total[name] + result[name] for name in OUTCOMES}
    print("\n--- all stages", *lines, sep="\n")
    print(closing_line(total, time.perf_counter() - start))
    return 1 if total["failed"] or total["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
