"""``cmssf train --seeds N``: one training for each seed."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from subprocess import PIPE, STDOUT, Popen

from cmssf_lib import machine
from cmssf_lib.cli.terminal import say

#: For `python -c`: what the command ``cmssf`` does.
COMMAND = "import sys; from cmssf_lib.cli import main; sys.exit(main())"


def train_seeds(words: Sequence[str], folder: str | None, first: int, count: int) -> None:
    """Train once for each seed, in a process of its own: on a GPU all side by side.

    One small training leaves most of a GPU idle. On the CPU they follow each other.

    Args:
        words: Of ``cmssf train``; ``--seeds`` among them.
        folder: Of the runs, each with ``-sSEED`` behind; ``None`` for the usual ones.
        first: The first seed.
        count: Number of seeds.

    Raises:
        RuntimeError: If a training fails; the others go on.
    """

    def one(seed: int) -> int:
        own = ["--seeds", "1", "--train.seed", str(seed)]
        own += ["--run", f"{folder}-s{seed}"] if folder else []
        command = [sys.executable, "-c", COMMAND, "train", *words, *own]
        hidden = os.environ | {"TQDM_DISABLE": "1"}
        with Popen(
            command, stdout=PIPE, stderr=STDOUT, text=True, errors="replace", env=hidden
        ) as process:
            for line in process.stdout or ():
                say(f"seed {seed}: {line.rstrip()}")
        return process.returncode

    seeds = range(first, first + count)
    side_by_side = count if machine.fastest_device().type == "cuda" else 1
    with ThreadPoolExecutor(side_by_side) as pool:
        trainings = [pool.submit(one, seed) for seed in seeds]
        try:
            failed = [s for s, training in zip(seeds, trainings, strict=True) if training.result()]
        except KeyboardInterrupt:  # the processes have it too, and write their checkpoints
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise RuntimeError(f"the training of seed {', '.join(map(str, failed))} failed; see above")
