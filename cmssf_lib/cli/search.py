"""``cmssf index`` and ``cmssf search``: search a folder of your own pictures."""

from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from cmssf_lib.build import preset_of
from cmssf_lib.cli.terminal import note, say
from cmssf_lib.cli.training import Data, load_trained
from cmssf_lib.data import ImageTextData
from cmssf_lib.data.pictures import read_picture
from cmssf_lib.files import home, require_writable
from cmssf_lib.methods import CMSSF
from cmssf_lib.runs import Run
from cmssf_lib.share import Index, fingerprint, from_pretrained, index_folder
from cmssf_lib.share.calibration import FALSE_POSITIVES
from cmssf_lib.share.index import NAME

INDEX = "runs/index"  # default folder of an index


def index(
    folder: Positional[str],
    model: str,
    to: str = INDEX,
    skip_unreadable: bool = False,
    pictures: Data = None,
) -> None:
    """Encode a folder of pictures for search; if repeated, only new or changed pictures.

    Args:
        folder: Folder of the pictures, with its subfolders.
        model: Folder written by save_pretrained, folder of a run, or name on the Hugging Face Hub.
        to: Folder of the index.
        skip_unreadable: Leave out damaged pictures instead of stopping.
        pictures: Folder of the data that the model was trained on, if the model is a run.
    """
    root, place = home(folder), home(to)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root} with pictures: check the path")
    require_writable(place)
    old = Index.load(place) if (place / NAME).is_file() else None
    if old is not None and old.folder != root.resolve() and old.folder.is_dir():
        raise ValueError(f"{place} is the index of another folder, {old.folder}: change --to")
    encoder, name, held_out = trained_model(model, pictures)
    if old is not None and old.model != fingerprint(encoder):
        note(f"{to} was made by another model: every picture is encoded again")
        old = None
    made = index_folder(
        encoder,
        root,
        old=old,
        to=place,
        skip_unreadable=skip_unreadable,
        model_name=name,
        held_out=held_out,
    )
    changes = made.changes
    say(
        f"{made.folder}: {len(made.pictures)} files, {len(changes.added)} of them "
        f"new and {len(changes.changed)} changed, {len(changes.gone)} gone; {changes.encoded} "
        f"pictures encoded; {len(made)} different ones are in {to}"
    )
    if (known := made.calibration) and not known.tells:
        note(
            f"searching will not say when nothing fits: {known.missed:.0%} of the captions that "
            "are true of a held-out picture are less similar to it than others are by chance in an "
            "index of this size"
        )
    copies = [files for files in made.files if len(files) > 1]
    if copies:
        say("The same file more than once:")
    for files in copies:
        say("  " + " = ".join(files))


def search(
    words: Positional[tuple[str, ...]] = (),
    like: str | None = None,
    without: str | None = None,
    index: str = INDEX,
    model: str | None = None,
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10,
    pictures: Data = None,
) -> None:
    """Find the pictures of an index that are most similar to a sentence or to a picture.

    Args:
        words: The sentence, like the captions that the model learned from. Of digit scenes these
            are "a photo of a large red seven on a blue background" or, after a training with
            --data.text parts, "a red seven" as well.
        like: Path of a picture to search for instead of a sentence.
        without: A sentence that the results should not fit, such as "a blue background".
        index: Folder of the index.
        model: Folder or name of the model; if not given, the one that made the index.
        k: Number of pictures to show.
        pictures: Folder of the data that the model was trained on, if the model is a run.
    """
    if bool(words) == bool(like):
        raise ValueError("write either a sentence or --like with the path of a picture")
    found = Index.load(index)
    if not (name := model or found.model_name):
        raise ValueError(f"{index} does not say where its model is: give it with --model")
    if not found.folder.is_dir():
        raise FileNotFoundError(
            f"the folder {found.folder} of this index is gone: restore it or index another folder"
        )
    encoder, _, _ = trained_model(name, pictures)
    query: Any = [read_picture(home(like), None)] if like else [" ".join(words)]
    apart = None if without is None else [without]
    hits = found.find(encoder, query, k, without=apart)[0]
    for place, hit in enumerate(hits, start=1):
        path, *copies = (found.folder / file for file in (hit.file, *hit.also))
        gone = "" if path.is_file() else "  (gone)"
        also = f"  (also: {', '.join(map(str, copies))})" if copies else ""
        say(f"{place:4} {hit.similarity:7.3f}  {path}{gone}{also}")
    if words and (known := found.calibration) and known.tells:
        best = found.find(encoder, query, 1)[0][0].similarity
        if best < known.threshold:
            note(
                "nothing fits, if the sentence is like the captions that the model learned from: "
                f"the best similarity, {best:.3f}, is below {known.threshold:.3f}. So much, "
                f"{known.pictures} held-out pictures say, {FALSE_POSITIVES:.0%} of the captions "
                "that are true of none reach in an index of this size"
            )
    if len(hits) < k:
        note(f"the index holds only {len(hits)} different pictures")
    if any(not (found.folder / hit.file).is_file() for hit in hits):
        note(f"some of these are gone; update the index with: cmssf index {found.folder}")


def trained_model(
    place: str, pictures: str | None = None
) -> tuple[CMSSF, str, ImageTextData | None]:
    """Load a trained CMSSF.

    Args:
        place: A folder written by `save_pretrained`, a run's folder with weights, or a name on
            the Hugging Face Hub.
        pictures: Folder of a run's training data; None for the recorded one.

    Returns:
        The model, its absolute path (or its name on the Hub), to load it again later, and the
        pictures that a run held out.

    Raises:
        FileNotFoundError: If there is no such model, or it has no weights.
        ValueError: If it is not a CMSSF, its tokenizer was built from other captions,
            or it is damaged.
    """
    folder = home(place)
    again = str(folder.resolve()) if folder.is_dir() else place
    # A run needs its data to rebuild the tokenizer; a `save_pretrained` folder holds its words.
    if not any((folder / name).is_file() for name in ("history.csv", "environment.json")):
        return from_pretrained(place), again, None
    run = Run.load(folder)
    if (method := run.config.get("method", "cmssf")) != "cmssf":
        raise ValueError(f"the run {folder} trained {method}, which cannot encode text")
    model, splits, same = load_trained(run, pictures)
    assert isinstance(model, CMSSF)
    data = preset_of(run.config).data
    held_out = splits.train.hold_out(data.validation, data.seed)[1] if same else None
    return model, again, held_out
