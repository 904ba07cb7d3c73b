"""On a machine with a GPU: everything that only a GPU can tell, in about nine minutes a part.

usage: python tests/card/measure.py PART [FOLDER]

Parts:
    speed    `make bench BENCH=gpu`, then CMSSF from a cold start until it names 90 % of the test
             pictures (photographs in $CMSSF_DATA)
    science  bfloat16 beside float32: SimCLR and CMSSF, three seeds each, all side by side
    right    the tests of the library, those that need a GPU, and every cell of every notebook

What is printed is also kept in FOLDER (by default the current one), one file a part. A part goes on
after a failure, and says at the end what failed.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

from cmssf_lib.data import find_cifar10

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}
COMMAND = "import sys; from cmssf_lib.cli import main; sys.exit(main())"
CORES = os.cpu_count() or 1


def run(title: str, words: list[str], seconds: float, **more: str) -> tuple[bool, str]:
    """Run a Python command; return whether it succeeded, and the end of what it printed."""
    start = time.monotonic()
    environment = ENVIRONMENT | more
    try:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        good, printed = done.returncode == 0, done.stdout
    except subprocess.TimeoutExpired as late:
        told = late.stdout or b""
        good, printed = False, told.decode() if isinstance(told, bytes) else told
    taken = time.monotonic() - start
    print(f"\n=== {title}: {'done' if good else 'FAILED'} in {taken:.0f} s\n{printed[-9000:]}")
    sys.stdout.flush()
    return good, printed


def command(method: str, folder: str, *settings: str) -> list[str]:
    """Return the words of a training of the standard preset."""
    return ["-c", COMMAND, "train", method, "--preset", "standard", "--run", folder, *settings]


def speed() -> list[str]:
    """Measure how fast it is."""
    failed = []
    if not run("benchmarks", ["-m", "benchmarks", "gpu"], 330)[0]:
        failed.append("benchmarks: see which promise was missed")
    folder = "/tmp/cmssf-cold"
    settings = ["--train.epochs", "90", "--train.batch_size", "512", "--train.lr", "4e-3"]
    good, _ = run("CMSSF from a cold start", command("cmssf", folder, *settings), 200)
    if not good:
        return [*failed, "CMSSF from a cold start"]
    told = """
from cmssf_lib.runs import Run
run = Run.load("/tmp/cmssf-cold")
seconds = 0.0
for row in run.history:
    seconds += row["seconds"]
    print(f"{seconds:6.1f} s of training: {row['validation_zero_shot']:.4f} of held-out pictures")
print(run.results["zero_shot"], "of the test pictures at the end")
"""
    run("its course", ["-c", told], 60)
    return failed


def science() -> list[str]:
    """Compare bfloat16 with float32."""
    wanted = [
        (method, precision, seed)
        for method in ("simclr", "cmssf")
        for precision in ("no", "bf16")
        for seed in range(3)
    ]

    def one(training: tuple[str, str, int]) -> tuple[bool, str]:
        method, precision, seed = training
        settings = ["--train.precision", precision, "--train.seed", str(seed)]
        words = command(method, f"/tmp/{method}-{precision}-{seed}", *settings)
        words += ["--judge.fine_tune", "False", "--judge.fractions", "1.0"]
        return run(f"{method}, {precision}, seed {seed}", words, 540, OMP_NUM_THREADS="1")

    with ThreadPoolExecutor(len(wanted)) as pool:
        done = list(pool.map(one, wanted))
    told = """
from cmssf_lib.runs import Run
for method, number in (("simclr", "knn"), ("simclr", "linear_100pct"), ("cmssf", "zero_shot")):
    for precision in ("no", "bf16"):
        runs = [Run.load(f"/tmp/{method}-{precision}-{seed}") for seed in range(3)]
        print(method, number, precision, [round(run.results[number], 4) for run in runs])
"""
    run("bfloat16 beside float32", ["-c", told], 60)
    return [str(training) for training, (good, _) in zip(wanted, done, strict=True) if not good]


def right() -> list[str]:
    """Run the tests and the notebooks."""
    left_out = [f"--ignore=tests/{name}" for name in ("site", "notebooks", "test_devices.py")]
    # The oracles and a few tests need packages that a bare machine may lack.
    words = [
        "-m",
        "pytest",
        "tests",
        *left_out,
        "-q",
        "-n",
        str(CORES - 1),
        "-p",
        "no:cacheprovider",
    ]
    with ThreadPoolExecutor(2) as pool:
        tests = pool.submit(run, "tests", words, 540, OMP_NUM_THREADS="1")
        notebooks = pool.submit(all_notebooks)
        failed = notebooks.result()
        good, _ = tests.result()
    return failed if good else [*failed, "tests"]


def all_notebooks() -> list[str]:
    """Run every notebook, one after the other, each in a process of its own.

    With photographs in $CMSSF_DATA the chapters train on them.
    """
    failed, preset = [], "standard" if find_cifar10() else "quick"
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        good, _ = run(path.stem, [__file__, "notebook", str(path)], 420, CMSSF_PRESET=preset)
        failed += [] if good else [path.stem]
    return failed


def notebook(path: Path) -> None:
    """Run the cells of a notebook as plain Python; show what a kernel would show."""
    os.chdir(path.parent)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {"__name__": "__main__", "display": render}
    for number, cell in enumerate(cells):
        code = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        code = re.sub(r"^(\s*)[!%].*", r"\1pass", code, flags=re.MULTILINE)  # a kernel's commands
        tree, printed = ast.parse(code), io.StringIO()
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        try:
            with redirect_stdout(printed):
                exec(compile(tree, f"cell {number}", "exec"), names)
                if isinstance(last, ast.Expr):
                    shown = compile(ast.Expression(last.value), f"cell {number}", "eval")
                    render(eval(shown, names))
        except Exception:
            traceback.print_exc()
            print(f"cell {number} failed; it had printed:\n{printed.getvalue()[-500:]}")
            sys.exit(1)


def render(*shown: object) -> None:
    """Make the picture or the page that a kernel would show."""
    for one in shown:
        for kind in ("_repr_png_", "_repr_html_"):
            if hasattr(one, kind):
                getattr(one, kind)()


def main() -> int:
    if sys.argv[1] == "notebook":
        notebook(Path(sys.argv[2]))
        return 0
    part = sys.argv[1]
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else ".")
    start, failed = time.monotonic(), {"speed": speed, "science": science, "right": right}[part]()
    summary = {"part": part, "seconds": round(time.monotonic() - start), "failed": failed}
    print(json.dumps(summary))
    (folder / f"{part}.json").write_text(json.dumps(summary) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
