"""In a shell: ``cmssf train``, ``evaluate``, ``reproduce``, ``runs``, ``index``, ``search``.

The same functions as in the notebooks; what stands here is their order and what is printed.
Options, help texts and messages come from the signatures and the dataclasses, by tyro.
"""

import shlex
import sys
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from cmssf_lib.cli import measure, search, training
from cmssf_lib.cli.training import Data
from cmssf_lib.presets import Preset, preset, sections

__all__ = ["main"]

#: What a shell is told: 2 for a mistake that the message explains, 130 after Ctrl-C.
MISTAKE, INTERRUPTED = 2, 130
#: How tyro reads every command: names as Python has them.
OPTIONS: dict[str, Any] = {"use_underscores": True}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the shell's exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with warnings.catch_warnings():
            # A sentence, without a file and a line of code.
            warnings.showwarning = lambda message, *_, **__: search.note(str(message))
            # What `train` can be told depends on the method and the preset that it names.
            if words[:1] == ["train"] and words[1:] and words[1] not in ("-h", "--help"):
                train(words[1:])
            else:
                tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="cmssf", args=words, **OPTIONS)
    except KeyboardInterrupt as interruption:
        print(f"\ncmssf: {str(interruption) or 'stopped'}", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, RuntimeError, OSError, FloatingPointError, MemoryError) as error:
        search.note(str(error))
        return MISTAKE
    except SystemExit as end:  # tyro has said what was wrong, or has shown its help
        return MISTAKE if end.code else 0
    return 0


@dataclass(frozen=True)
class Asked:
    """Train a method and evaluate it; ``cmssf train METHOD --help`` lists all settings."""

    method: Positional[str]  # cmssf, fusion, simclr, moco, byol, dino, mae or supervised
    preset: str | None = None  # "quick", "standard" or "paper"; else $CMSSF_PRESET
    pictures: Data = None  # folder of the pictures; else $CMSSF_DATA
    run: str | None = None  # folder of the run; else runs/METHOD-PRESET-sSEED


def train(words: Sequence[str]) -> None:
    """Train and evaluate as the words behind ``cmssf train`` say.

    Raises:
        ValueError: If method or preset are unknown, or a setting cannot work.
    """
    asked, chosen = read_settings(words)
    folder = Path(asked.run or f"runs/{asked.method}-{chosen.name}-s{chosen.train.seed}")
    training.train_run(chosen, asked.method, folder, shlex.join(["cmssf", "train", *words]))


def read_settings(words: Sequence[str]) -> tuple[Asked, Preset]:
    """Read what ``cmssf train`` is told: a method, a preset, and what is otherwise than there.

    Only the sections that the method reads can be changed.

    Args:
        words: Such as ``["simclr", "--preset", "quick", "--train.lr", "1e-3"]``.

    Raises:
        ValueError: If method or preset are unknown.
        SystemExit: If a setting is unknown or of another type; tyro has said which.
    """
    early = ArgumentParser("cmssf train", add_help=False, allow_abbrev=False)
    early.add_argument("--preset")
    early.add_argument("--cmssf.image_loss", "--cmssf.image-loss", dest="beside")
    told, _ = early.parse_known_args(words)
    usual = preset(told.preset, words[0])
    if told.beside:  # another method's settings are read as well
        usual = replace(usual, cmssf=replace(usual.cmssf, image_loss=told.beside))
    parts = {name: getattr(usual, name) for name in sections(usual, words[0])}
    in_words: Any = tyro.conf.FlagConversionOff  # truth as well: --fusion.norm_first False
    fields = [(name, in_words[type(part)], field(default=part)) for name, part in parts.items()]
    form = make_dataclass("Settings", fields, bases=(Asked,), frozen=True)
    form.__doc__ = f"Train {words[0]} with the preset {usual.name}, changed as is said here."
    read: Any = tyro.cli(form, prog="cmssf train", args=words, **OPTIONS)
    chosen = replace(usual, **{name: getattr(read, name) for name in parts})
    return read, training.with_pictures(chosen, read.pictures)


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": Asked,  # for the help; all else goes to `train`
    "evaluate": training.evaluate,
    "reproduce": training.reproduce,
    "runs": measure.runs,
    "index": search.index,
    "search": search.search,
}
