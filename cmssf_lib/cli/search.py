"""``cmssf index`` and ``cmssf search``: a folder of the reader's own pictures."""

import os
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cmssf_lib.build import preset_of, trained
from cmssf_lib.cli.training import Data, with_pictures
from cmssf_lib.data import load
from cmssf_lib.machine import fastest_device
from cmssf_lib.methods import CMSSF
from cmssf_lib.runs import Run
from cmssf_lib.share import Hit, Index, fingerprint, from_pretrained, index_folder

INDEX = "runs/index"  # where an index is written and looked for, unless a place is named
SHOWN = 10  # names of a long list


def index(
    folder: Positional[str],
    model: str,
    to: str = INDEX,
    skip_unreadable: bool = False,
    pictures: Data = None,
) -> None:
    """Encode a folder of pictures, to search it; again: only what is new or changed.

    Args:
        folder: Where the pictures are, in it and in folders in it.
        model: Folder of save_pretrained or of a run, or a name on the hub.
        to: Folder of the index.
        skip_unreadable: Go on without pictures that are damaged.
        pictures: Where a run's own pictures are now, if the model is a run.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} with pictures")
    place = Path(to).expanduser()
    old = Index.load(place) if (place / "index.safetensors").is_file() else None
    if old is not None and old.folder != root.resolve():
        raise ValueError(f"{place} is the index of another folder, {old.folder}: name another --to")
    encoder, name = trained_model(model, pictures)
    if old is not None and old.model != fingerprint(encoder):
        note(f"{to} was made by another model: every picture is encoded again")
        old = None
    made = index_folder(encoder, root, old=old, skip_unreadable=skip_unreadable, model_name=name)
    made.save(to)
    changes = made.changes
    print(
        f"{printable(str(made.folder))}: {len(made.pictures)} files, {len(changes.added)} of them "
        f"new and {len(changes.changed)} changed, {len(changes.gone)} gone; {changes.encoded} "
        f"pictures encoded; {len(made)} different ones are in {to}"
    )
    print_copies(made)


def search(
    words: Positional[tuple[str, ...]],
    index: str = INDEX,
    model: str | None = None,
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
    pictures: Data = None,
) -> None:
    """Find the pictures of an index that are nearest to a sentence.

    Args:
        words: Such as "a red seven".
        index: Its folder.
        model: Folder or name of the model; else the one that made the index.
        k: How many pictures.
        pictures: Where a run's own pictures are now, if the model is a run.
    """
    found = Index.load(index)
    if not (name := model or found.model_name):
        raise ValueError(f"{index} does not say where its model is: name it with --model")
    if not found.folder.is_dir():
        raise FileNotFoundError(
            f"the folder {found.folder} of this index is gone: put it back, or index another one"
        )
    encoder, _ = trained_model(name, pictures)
    hits = found.find(encoder, [" ".join(words)], k)[0]
    for place, hit in enumerate(hits, start=1):
        print(f"{place:4} {hit.similarity:7.3f}  {printable(hit_line(found.folder, hit))}")
    if len(hits) < k:
        note(f"the index holds no more than {len(hits)} different pictures")
    if any(not (found.folder / hit.file).is_file() for hit in hits):
        note(f"some of these are gone; to index what is there: cmssf index {found.folder}")


def trained_model(place: str, pictures: str | None = None) -> tuple[CMSSF, str]:
    """Read a trained CMSSF, to where it runs fastest.

    Args:
        place: A folder that `save_pretrained` wrote, a run's folder with weights, or a name on
            Hugging Face's hub.
        pictures: The folder that a run's own pictures are in; None for the recorded one.

    Returns:
        The model, and where it can be read again from any folder.

    Raises:
        FileNotFoundError: If there is none, or it has no weights.
        ValueError: If it is not a CMSSF, its data are others than it was trained on, or it is
            damaged.
    """
    folder = Path(place).expanduser()
    # A run needs its data, for the words of its tokenizer; a folder for the hub has them.
    is_run = any((folder / name).is_file() for name in ("history.csv", "environment.json"))
    model = model_of_run(folder, pictures) if is_run else from_pretrained(place)
    model.to(fastest_device())
    return model.eval(), str(folder.resolve()) if folder.is_dir() else place


def model_of_run(folder: Path, pictures: str | None) -> CMSSF:
    """Build a run's model on its data, for the words, and fill it; see `trained_model`."""
    run = Run.load(folder)
    if (method := run.config.get("method", "cmssf")) != "cmssf":
        raise ValueError(f"the run {folder} trained {method}, which has no space for words")
    preset = preset_of(run.config)
    data = load(with_pictures(preset, pictures).data).train
    if run.config.get("data_fingerprint") != data.fingerprint:
        raise ValueError(
            f"the run {folder} was trained on other data than are here, so its words are not "
            "known: name the folder of its pictures with --data, or one that save_pretrained wrote"
        )
    model = trained(run, data)
    assert isinstance(model, CMSSF)
    return model


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
