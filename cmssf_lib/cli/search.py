"""``cmssf index`` and ``cmssf search``: a folder of the reader's own pictures."""

import os
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cmssf_lib.cli.training import Data, load_trained
from cmssf_lib.methods import CMSSF
from cmssf_lib.runs import Run
from cmssf_lib.share import Index, fingerprint, from_pretrained, index_folder

INDEX = "runs/index"  # where an index is written and looked for, unless a place is named


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
        path, *copies = (found.folder / file for file in (hit.file, *hit.also))
        gone = "" if path.is_file() else "  (gone)"
        also = f"  (also: {', '.join(map(str, copies))})" if copies else ""
        print(f"{place:4} {hit.similarity:7.3f}  {printable(f'{path}{gone}{also}')}")
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
    again = str(folder.resolve()) if folder.is_dir() else place
    # A run needs its data, for the words of its tokenizer; a folder for the hub has them.
    if not any((folder / name).is_file() for name in ("history.csv", "environment.json")):
        return from_pretrained(place), again
    run = Run.load(folder)
    if (method := run.config.get("method", "cmssf")) != "cmssf":
        raise ValueError(f"the run {folder} trained {method}, which has no space for words")
    model, _, _ = load_trained(run, pictures)
    assert isinstance(model, CMSSF)
    return model, again


def note(sentence: str) -> None:
    """Tell what is no result, where it does not mix with the results."""
    print(f"cmssf: {sentence}", file=sys.stderr)


def print_copies(index: Index) -> None:
    """Name the files that hold the same bytes as another."""
    groups = [files for files in index.files if len(files) > 1]
    if groups:
        print("The same file more than once:")
    for files in groups:
        print(printable("  " + " = ".join(files)))


def printable(text: str) -> str:
    """Return a path that any terminal can take; bytes that are no letters become "?" signs."""
    return os.fsencode(text).decode("utf-8", "replace")
