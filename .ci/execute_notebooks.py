"""Execute notebooks in place, in a clean quick run, and store outputs that make small diffs.

A notebook is written back only when all of its cells ran. Without arguments every notebook of
`notebooks/` is executed. Run it with `make notebooks`. Day, machine, seconds, memory and versions
are stored with each, for the status page.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

from cmssf_lib.environment import environment

ROOT = Path(__file__).resolve().parents[1]
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
# The lexer of IPython: the first cell's `!` and `%` are no Python, which the site's build minds.
LANGUAGE = {"name": "python", "pygments_lexer": "ipython3"}
# Asked by one cell more, which is not kept.
MEMORY = "from cmssf_lib.environment import peak_memory_gb\nprint(peak_memory_gb())"
LIMIT_S = (
    600  # for one cell: far above the minute that a cell may take, so that only a hang ends here
)


def execute(path: Path) -> None:
    """Run all cells of one notebook in a fresh kernel and replace the file with the result."""
    notebook = nbformat.read(path, as_version=4)
    # Errors tagged "raises-exception" are part of the lesson; any other ends the run here.
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=LIMIT_S,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    notebook.cells.append(nbformat.v4.new_code_cell(MEMORY))
    start = time.perf_counter()
    client.execute()
    held = float(notebook.cells.pop().outputs[0].text)
    strip(notebook)
    here = environment("cuda" if torch.cuda.is_available() else "cpu")
    del here["commit"]  # the one before this notebook's: it says nothing
    measured = {"seconds": round(time.perf_counter() - start), "peak_memory_gb": round(held, 2)}
    notebook.metadata["executed"] = here | measured
    nbformat.validate(notebook)
    part = path.with_suffix(".part")
    nbformat.write(notebook, part)
    part.replace(path)


def strip(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs between two machines without meaning anything."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE})
    for cell in notebook.cells:
        for name in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell.metadata.pop(name, None)


def main(arguments: list[str]) -> int:
    # Before any kernel starts: the same preset everywhere, no progress bars among the outputs.
    os.environ |= {"CMSSF_PRESET": "quick", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    paths = [Path(name) for name in arguments] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not paths:
        sys.exit("No notebooks in notebooks/: nothing to execute.")
    for path in paths:
        start = time.perf_counter()
        print(f"{path.name} ...", flush=True)
        execute(path.resolve())
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
