"""A preset for a folder of one's own pictures: what depends on the data is taken from the data."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median_low
from typing import Any

from cmssf_lib.captions import CIFAR10_CLUES
from cmssf_lib.data import DataConfig, ImageTextData, arrow_folder, find_cifar10, load
from cmssf_lib.data.pictures import find_pictures, short_side
from cmssf_lib.encoders import word_tokenizer
from cmssf_lib.files import flat, home
from cmssf_lib.presets.idle import idle
from cmssf_lib.presets.preset import Preset, sections
from cmssf_lib.presets.standard import STANDARD

#: Names of a table of captions in the folder itself; the last two are those of `datasets`.
TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
LARGEST = {"quick": 32, "standard": 64}  # side in pixels; a model of timm has a size of its own
LOOKED_AT = 200  # pictures whose size is read
FEWEST, FEWEST_TESTED = 20, 10  # pictures; R@10 needs ten
READS_TEXT = ("cmssf", "fusion")
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


def for_folder(folder: str | Path, method: str, usual: Preset) -> tuple[Preset, list[str]]:
    """Adapt a preset to a folder of pictures.

    The folder holds ``train/<class>/*`` and ``test/<class>/*``, or pictures without classes, a
    tenth of which becomes the test set. A table with captions (see `read_captions`) lies in it
    under one of the names `TABLES`. Or it is a folder that `arrow_folder` reads. A preset for
    CIFAR-10 stays what it is if the folder holds CIFAR-10, or nothing, so that it can be
    downloaded there.

    From the data come the size of the pictures, the length of the captions, and how many pictures
    are held out, labelled and in a batch. Epochs are as many as give the preset's number of steps.
    Random views are those of the preset ``standard``, which are made for photographs; if a caption
    says "left" or "right", none is mirrored.

    Args:
        folder: The folder.
        method: What is to be trained.
        usual: A preset for this method. Its ``data.captions`` and ``data.skip_unreadable`` stay.

    Returns:
        The changed preset, and sentences that say what was found and what was changed.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture in it.
        ValueError: If pictures cannot be read or are too few, or classes or captions are missing
            that the method learns from.
    """
    root = home(folder).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: give the folder of the pictures")
    if usual.data.name == "cifar10" and (_is_cifar10(root) or not any(root.iterdir())):
        return replace(usual, data=replace(usual.data, path=str(root))), []
    data, pixels = _found(root, method, usual)
    train, test = load(data)
    if len(train) < FEWEST or len(test) < FEWEST_TESTED:
        raise ValueError(
            f"{root} has {len(train)} pictures for training and {len(test)} for testing; at least "
            f"{FEWEST} and {FEWEST_TESTED} are needed"
        )
    had = 50_000 if usual.data.name == "cifar10" else usual.data.train
    steps = usual.train.epochs * ((had - usual.data.validation) // usual.train.batch_size)
    chosen = replace(usual, data=data, minutes="depends on the data")
    texts = (*train.unique_captions, *test.unique_captions)
    chosen = _with_sizes(chosen, steps, method, train, _longest(texts))
    chosen = _with_views(chosen, mirrored=not any(map(SIDED.search, train.unique_captions)))
    classes = len(train.class_names)
    said = f"{classes} classes" if classes > 1 else "no classes"
    if method in READS_TEXT:
        own = data.captions or ("its own" if data.name == "arrow" else "names of the classes")
        said += f", captions: {own}"
    return chosen, [
        f"{root}: {len(train)} pictures for training and {len(test)} for testing, mostly at least "
        f"{pixels} pixels wide and high; {said}.",
        "Set from the data, unless an option says otherwise: "
        f"{' '.join(_changes(usual, chosen, method))}, and views of photographs.",
    ]


def _found(root: Path, method: str, usual: Preset) -> tuple[DataConfig, int]:
    """Return how to load a folder, and the shorter side of most of its pictures in pixels."""
    splits = [root / split for split in ("train", "test") if (root / split).is_dir()]
    stored, files = (root / "dataset_dict.json").is_file(), list[str]()
    if not stored:
        try:
            with warnings.catch_warnings(action="ignore"):  # `load` says again what is left out
                files = [found.file for found in find_pictures(root)]
        except FileNotFoundError:  # pictures go first: an index may lie beside them
            if not (stored := any(root.rglob("*.parquet"))):
                raise
    if len(splits) == 1 and not stored:
        raise ValueError(f"{root} holds {splits[0].name}/ but not the other of train/ and test/")
    test, table = usual.data.test, None
    if stored:
        pixels = min(arrow_folder(root).train.images.shape[2:])
    else:
        looked_at = files[:: -(-len(files) // LOOKED_AT)]
        pixels = median_low([short_side(root / file) or 0 for file in looked_at])
        if not splits:
            test = max(FEWEST_TESTED, len(files) // 10)
        if method in READS_TEXT:
            table = usual.data.captions
            table = table or next((t for t in TABLES if (root / t).is_file()), None)
            if table is None and not (splits and method == "cmssf"):
                raise ValueError(
                    f"{method} learns from captions: put a table {TABLES[0]} with the columns "
                    f"file_name and text into {root}"
                )
    side = usual.vision.image_size
    if usual.vision.kind != "timm":
        side = min(LARGEST.get(usual.name, side), max(8, pixels // 4 * 4))
    data = replace(
        usual.data,
        name="arrow" if stored else "image_folder" if splits else "plain_folder",
        path=str(root),
        captions=table,
        text="caption",
        sound="none",
        pixel_noise=0.0,
        test=test,
        image_size=side,
    )
    return data, pixels


def _changes(usual: Preset, chosen: Preset, method: str) -> list[str]:
    """Return what differs and acts, as options of the command line; views are left out."""
    before, after = (
        flat({part: asdict(getattr(p, part)) for part in sections(p, method)})
        for p in (usual, chosen)
    )
    changed = {k: v for k, v in after.items() if v != before[k] and "views" not in k}
    asleep = tuple(idle(chosen, method))
    words = {k: map(str, v if isinstance(v, list) else [v]) for k, v in changed.items()}
    return [f"--{k} {' '.join(word)}" for k, word in words.items() if not k.startswith(asleep)]


def _is_cifar10(root: Path) -> bool:
    """Return whether `cifar10` is meant: torchvision's files, or folders named like its classes."""
    place, names = find_cifar10(root), set().union(*CIFAR10_CLUES.values())
    if place is None or not (place / "train").is_dir():
        return place is not None
    return names == {folder.name for folder in (place / "train").iterdir() if folder.is_dir()}


def _with_sizes(
    usual: Preset, steps: int, method: str, train: ImageTextData, longest: int
) -> Preset:
    """Return the preset with sizes and numbers that suit the training set."""
    n, side, old = len(train), usual.data.image_size, usual.train
    batch = min(old.batch_size, 2 ** (n // 8).bit_length() // 2)  # at least eight in an epoch
    held_out = max(n // 10, batch)
    epochs = max(1, round(steps / ((n - held_out) // batch)))
    judge = replace(usual.judge, fractions=(1.0,) if usual.judge.fractions else (), fine_tune=False)
    fewest = int(train.labels.bincount(minlength=len(train.class_names)).min())
    if method != "cmssf":  # which is measured by its captions
        judge = replace(judge, per_class=min(usual.judge.per_class or 10, fewest), fractions=(1.0,))
    labelled = judge.per_class * len(train.class_names)
    longest = max(usual.text.max_length, longest)
    tuned = max(1, min(usual.fine_tune.batch_size, labelled))
    fusion = replace(usual.fusion, modalities=("image", "text"), image_size=(side, side))
    return replace(
        usual,
        data=replace(usual.data, validation=held_out),
        vision=replace(usual.vision, image_size=side),
        text=replace(usual.text, max_length=longest),
        train=replace(old, batch_size=batch, epochs=epochs),
        judge=judge,
        fine_tune=replace(usual.fine_tune, batch_size=tuned),
        fusion=replace(fusion, max_length=longest),
    )


def _with_views(usual: Preset, mirrored: bool) -> Preset:
    """Return the preset with the random views of photographs in all methods."""
    changed: dict[str, Any] = {}
    for method in (
        "cmssf",
        "simclr",
        "moco",
        "byol",
        "dino",
        "vicreg",
        "mae",
        "supervised",
        "fine_tune",
    ):
        own = getattr(usual, method)
        for name in ("views", "local_views"):
            if views := getattr(getattr(STANDARD, method), name, None):
                views = views if mirrored else replace(views, flip=0.0)
                own = replace(own, **{name: views})
        changed[method] = own
    return replace(usual, **changed)


def _longest(captions: Sequence[str]) -> int:
    """Return the number of tokens of the longest caption, [CLS] and [SEP] included."""
    read = word_tokenizer(captions, max_length=10_000)(list(captions))
    return max(map(len, read["input_ids"]))
