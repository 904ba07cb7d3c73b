"""In a shell: ``cmssf train``, ``evaluate``, ``reproduce``, ``runs``, ``index``, ``search``.

The same functions as in the notebooks; what stands here is their order and what is printed.
"""

import argparse
import sys
from collections.abc import Sequence

from cmssf_lib.cli.commands import (
    evaluate_command,
    reproduce_command,
    runs_command,
    train_command,
)
from cmssf_lib.cli.search import INDEX, index_command, search_command
from cmssf_lib.presets import METHODS, PRESETS

#: What a shell is told: 2 for a mistake that the message explains, 130 after Ctrl-C.
MISTAKE, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the shell's exit code."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt as interruption:
        print(f"\ncmssf: {str(interruption) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError, FloatingPointError, MemoryError) as error:
        print(f"cmssf: {error}", file=sys.stderr)
        return MISTAKE
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        prog="cmssf", description="Train, evaluate and compare runs; search pictures."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a method and evaluate it")
    train.add_argument("method", help=f"one of: {', '.join(METHODS)}")
    train.add_argument("--preset", help=f"one of: {', '.join(PRESETS)} (default: $CMSSF_PRESET)")
    train.add_argument("--epochs", type=int, help="instead of the preset's; 0: fresh weights")
    train.add_argument("--seed", type=int, help="instead of the preset's")
    train.add_argument("--data", help="folder of the pictures (default: $CMSSF_DATA)")
    train.add_argument("--run", help="folder of the run (default: runs/METHOD-PRESET-sSEED)")
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change any number of the preset, such as train.lr=0.001 or cmssf.loss=excess",
    )
    train.add_argument(
        "--light", action="store_true", help="keep history and results, not weights and outputs"
    )
    train.set_defaults(command=train_command)

    evaluate = commands.add_parser("evaluate", help="measure a trained run on the test set")
    evaluate.add_argument("run", help="folder of the run")
    evaluate.add_argument("--data", help="folder of the pictures (default: $CMSSF_DATA)")
    evaluate.add_argument(
        "--no-fine-tuning",
        action="store_true",
        help="leave out the measures that train; what is left takes minutes, not an hour",
    )
    evaluate.set_defaults(command=evaluate_command)

    reproduce = commands.add_parser("reproduce", help="make a recorded run again")
    reproduce.add_argument("name", nargs="?", help="such as quick/cmssf; see: cmssf runs")
    reproduce.add_argument("--all", action="store_true", help="every recorded run")
    reproduce.add_argument("--preset", help="with the numbers of another preset")
    reproduce.add_argument("--data", help="folder of the pictures (default: $CMSSF_DATA)")
    reproduce.add_argument("--to", default="runs/reproduced", help="where (default: %(default)s)")
    reproduce.set_defaults(command=reproduce_command)

    runs = commands.add_parser("runs", help="list runs and their results")
    runs.add_argument("folder", nargs="?", help="default: the book's recorded runs")
    runs.set_defaults(command=runs_command)

    where = "folder of save_pretrained or of a run, or a name on the hub"
    index = commands.add_parser("index", help="encode a folder of pictures, to search it")
    index.add_argument("folder", help="where the pictures are, in it and in folders in it")
    index.add_argument("--model", required=True, help=where)
    index.add_argument("--to", default=INDEX, help="folder of the index (default: %(default)s)")
    index.add_argument(
        "--skip-unreadable", action="store_true", help="go on without pictures that are damaged"
    )
    index.add_argument("--data", help="where a run's own pictures are now, if --model is a run")
    index.set_defaults(command=index_command)

    search = commands.add_parser("search", help="find pictures by a sentence")
    search.add_argument("words", nargs="+", help='such as "a red seven"')
    search.add_argument("--index", default=INDEX, help="its folder (default: %(default)s)")
    search.add_argument("--model", help=f"{where} (default: the one that made the index)")
    search.add_argument("-k", type=int, default=10, help="how many (default: %(default)s)")
    search.add_argument("--data", help="where a run's own pictures are now, if the model is a run")
    search.set_defaults(command=search_command)
    return top
