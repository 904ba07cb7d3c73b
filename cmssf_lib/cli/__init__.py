"""Command line: ``cmssf train``, ``evaluate``, ``reproduce``, ``index``, ``search`` and others.

The commands call the same functions as the notebooks and print the results. tyro makes the
options and help texts from the signatures, docstrings and dataclasses.
"""

import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any

import tyro
from pydantic import PositiveInt
from tyro.conf import Positional

from cmssf_lib import machine, presets
from cmssf_lib.cli import export, measure, search, training
from cmssf_lib.cli.seeds import train_seeds
from cmssf_lib.cli.terminal import lasting, note, say
from cmssf_lib.cli.training import Data
from cmssf_lib.files import home
from cmssf_lib.presets import Preset, preset, sections

__all__ = ["main"]

#: Exit codes: 1 for an error that nobody foresaw, 2 for one that the message explains, 130 after
#: Ctrl-C, 141 (as of a program ended by SIGPIPE) if nobody read the output to its end.
FAULT, MISTAKE, INTERRUPTED, UNREAD = 1, 2, 130, 141
FORESEEN = (ValueError, RuntimeError, OSError, FloatingPointError, MemoryError)
#: Options of tyro for every command: write names with underscores, as in Python.
OPTIONS: dict[str, Any] = {"use_underscores": True}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the shell's exit code.

    An error is one sentence on stderr; with CMSSF_TRACEBACK=1 in the environment it is raised.
    """
    with lasting() as faults:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    if not faults:
        return code
    if isinstance(faults[0], BrokenPipeError):
        return UNREAD
    note(f"the output could not be written: {faults[0]}")
    return code or FAULT


def _run(words: list[str]) -> int:
    """Run one command; return its exit code, whatever happens."""
    try:
        with warnings.catch_warnings():
            # Print only the message of a warning, without its file and line.
            warnings.showwarning = lambda message, *_, **__: note(message)
            # The options of `train` depend on its method and preset, so it parses its own words.
            if words[:1] == ["train"] and words[1:] and words[1] not in ("-h", "--help"):
                train(words[1:])
            else:
                tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="cmssf", args=words, **OPTIONS)
    except KeyboardInterrupt as interruption:
        print(file=sys.stderr)  # behind the terminal's ^C
        note(str(interruption) or "stopped")
        return INTERRUPTED
    except SystemExit as end:  # tyro has printed an error or the help
        return MISTAKE if end.code else 0
    except Exception as error:
        if os.environ.get("CMSSF_TRACEBACK"):
            raise
        if isinstance(error, FORESEEN) and str(error):
            plain = isinstance(error, OSError) and error.filename is None and error.strerror
            note(plain or error)
            return MISTAKE
        note(f"{type(error).__name__}: {error} (CMSSF_TRACEBACK=1 shows where)")
        return FAULT
    return 0


@dataclass(frozen=True)
class Asked:
    """Train a method and evaluate it; ``cmssf train METHOD --help`` lists all settings."""

    method: Positional[str]  # cmssf, fusion, simclr, moco, byol, dino, vicreg, mae or supervised
    preset: str | None = None  # "quick", "standard" or "paper"; if not given, $CMSSF_PRESET
    pictures: Data = None  # folder of your pictures, or of CIFAR-10; if not given, $CMSSF_DATA
    run: str | None = None  # folder of the run; if not given, runs/METHOD-PRESET-sSEED
    seeds: PositiveInt = 1  # trainings to do, from train.seed on; on a GPU side by side


def train(words: Sequence[str]) -> None:
    """Run ``cmssf train`` with the given command-line words: train and evaluate a method.

    Raises:
        ValueError: If the method or the preset is unknown, or a setting is invalid.
    """
    asked, chosen = read_settings(words)
    if asked.seeds < 1:
        raise ValueError(f"--seeds {asked.seeds}: give at least one")
    if asked.seeds > 1:
        train_seeds(words, asked.run, chosen.train.seed, asked.seeds)
        return
    usual = f"runs/{asked.method}-{chosen.name}-s{chosen.train.seed}"
    folder = home(usual if asked.run is None else asked.run)
    training.train_run(chosen, asked.method, folder, shlex.join(["cmssf", "train", *words]))


def read_settings(words: Sequence[str]) -> tuple[Asked, Preset]:
    """Parse the words of ``cmssf train``: a method, a preset, and changes to the preset.

    Only the sections that the method uses can be changed. With ``--data``, the preset is first
    adapted to these pictures, and what was found and changed is printed.

    Args:
        words: Such as ``["simclr", "--preset", "quick", "--train.lr", "1e-3"]``.

    Returns:
        The options of the command, and the changed preset.

    Raises:
        ValueError: If the method or the preset is unknown, the pictures cannot be used, or a
            setting of the data is given that cannot act.
        SystemExit: If a setting is unknown or has the wrong type; tyro has printed which one.
    """
    given = _options(words)
    usual = preset(given.get("preset"), words[0])
    if "data" in given and not {"-h", "--help"} & {*words}:
        skip, table = given.get("data.skip_unreadable") == "True", given.get("data.captions")
        usual = replace(usual, data=replace(usual.data, captions=table, skip_unreadable=skip))
        usual, found = presets.for_folder(given["data"], words[0], usual)
        for sentence in found if machine.process_index() == 0 else ():
            say(sentence)
    if beside := given.get("cmssf.image_loss"):  # then the settings of that method are options too
        usual = replace(usual, cmssf=replace(usual.cmssf, image_loss=beside))
    parts = {name: getattr(usual, name) for name in sections(usual, words[0])}
    in_words: Any = tyro.conf.FlagConversionOff  # booleans need a value: --fusion.norm_first False
    fields = [(name, in_words[type(part)], field(default=part)) for name, part in parts.items()]
    form = make_dataclass("Settings", fields, bases=(Asked,), frozen=True)
    form.__doc__ = f"Train {words[0]} with the preset {usual.name}; the options change it."
    read: Any = tyro.cli(form, prog="cmssf train", args=words, **OPTIONS)
    chosen = replace(usual, **{name: getattr(read, name) for name in parts})
    for sentence in presets.check_given(list(given), chosen, words[0]):
        note(sentence)
    return read, chosen


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options among the words, each with what stands behind it."""
    found = {}
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value if equals else after
    return found


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": Asked,  # only for the help; `main` passes everything else to `train`
    "evaluate": training.evaluate,
    "reproduce": training.reproduce,
    "runs": measure.runs,
    "index": search.index,
    "search": search.search,
    "export": export.export,
}
