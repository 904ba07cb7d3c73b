"""``cmssf index`` and ``cmssf search``: a folder of the reader's own pictures."""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import cast

import torch

from cmssf_lib.cli.commands import load_data
from cmssf_lib.cmssf import CMSSF
from cmssf_lib.index import Hit, Index, fingerprint, index_folder
from cmssf_lib.runs import Run, preset_of

INDEX = "runs/index"  # where an index is written and looked for, unless a place is named
SHOWN = 10  # names of a long list


def index_command(options: argparse.Namespace) -> None:
    """``cmssf index FOLDER``: encode what is new or changed since the index before."""
    folder = Path(options.folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} with pictures")
    old = Index.load(options.to) if (Path(options.to) / "index.safetensors").is_file() else None
    if old is not None and old.folder != folder.resolve():
        raise ValueError(
            f"{options.to} is the index of another folder, {old.folder}: name a place for this one "
            "with --to, or delete the old one"
        )
    model, name = trained_model(options.model, options.data)
    if old is not None and old.model != fingerprint(model):
        note(f"{options.to} was made by another model: every picture is encoded again")
        old = None
    with warnings.catch_warnings(record=True) as caught:  # shown as sentences, without the code
        index = index_folder(
            model,
            folder,
            old=old,
            skip_unreadable=options.skip_unreadable,
            model_name=name,
        )
    for warning in caught:
        note(str(warning.message))
    index.save(options.to)
    changes, root = index.changes, printable(str(index.folder))
    print(
        f"{root}: {len(index.pictures)} files, {len(changes.added)} of them new and "
        f"{len(changes.changed)} changed, {len(changes.gone)} gone; {changes.encoded} pictures "
        f"encoded; {len(index)} different ones are in {options.to}"
    )
    print_copies(index)


def search_command(options: argparse.Namespace) -> None:
    """``cmssf search WORDS``: the pictures of an index that are nearest to a sentence."""
    index = Index.load(options.index)
    if not (place := options.model or index.model_name):
        raise ValueError(f"{options.index} does not say where its model is: name it with --model")
    if not index.folder.is_dir():
        raise FileNotFoundError(
            f"the folder {index.folder} of this index is gone: put it back, or index another one"
        )
    model, _ = trained_model(place, options.data)
    hits = index.find(model, [" ".join(options.words)], options.k)[0]
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:4} {hit.similarity:7.3f}  {printable(hit_line(index.folder, hit))}")
    if len(hits) < options.k:
        note(f"the index holds no more than {len(hits)} different pictures")
    if any(not (index.folder / hit.file).is_file() for hit in hits):
        note(f"some of these are gone; to index what is there: cmssf index {index.folder}")


def trained_model(place: str, pictures: str | None = None) -> tuple[CMSSF, str]:
    """Read a trained CMSSF, to where it runs fastest.

    Args:
        place: A folder that `save_pretrained` wrote, a run's folder with weights, or a name on
            Hugging Face's hub.
        pictures: The folder that a run's own pictures are in; None for the recorded one.

    Returns:
        The model, and where it can be read again from any folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is not a CMSSF, its data are others than it was trained on, or it is
            damaged.
    """
    folder = Path(place).expanduser()
    # A run needs its data, for the words of its tokenizer; a folder for the hub has them.
    if (folder / "history.csv").is_file() or (folder / "environment.json").is_file():
        run = Run.load(folder)
        if run.config["method"] != "cmssf":
            raise ValueError(
                f"the run {folder} trained {run.config['method']}, which has no space for words "
                "and pictures: search with a model of `cmssf train cmssf`"
            )
        data = load_data(preset_of(run.config), pictures).train
        if data.fingerprint != run.config["data_fingerprint"]:
            raise ValueError(
                f"the run {folder} was trained on other data than are here (fingerprint "
                f"{run.config['data_fingerprint']}, here {data.fingerprint}), so its words are "
                "not known: name a folder that save_pretrained wrote"
            )
        model = cast(CMSSF, run.method(data))
    else:
        model = cast(CMSSF, CMSSF.from_pretrained(folder if folder.is_dir() else place))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model.eval(), str(folder.resolve()) if folder.is_dir() else place


def note(sentence: str) -> None:
    """Tell what is no result, where it does not mix with the results."""
    print(f"cmssf: {sentence}", file=sys.stderr)


def print_copies(index: Index) -> None:
    """Name the files that hold the same bytes as another."""
    groups = [files for files in index.files if len(files) > 1]
    if groups:
        print("The same file more than once:")
    for files in groups[:SHOWN]:
        print(printable("  " + " = ".join(files)))
    if len(groups) > SHOWN:
        print(f"  and {len(groups) - SHOWN} pictures more")


def hit_line(folder: Path, hit: Hit) -> str:
    """Return the path of a picture, and in brackets whether it is gone and what its copies are."""
    path, *copies = (folder / file for file in (hit.file, *hit.also))
    gone = "" if path.is_file() else "  (gone)"
    return f"{path}{gone}" + (f"  (also: {', '.join(map(str, copies))})" if copies else "")


def printable(text: str) -> str:
    """Return a path that any terminal can take; bytes that are no letters become "?" signs."""
    return os.fsencode(text).decode("utf-8", "replace")
