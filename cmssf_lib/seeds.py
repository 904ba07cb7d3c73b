"""One training with several seeds, as it was recorded: what it scored, and whether it is better.

The runs of a training are called NAME-s0, NAME-s1 and so on, below `book/runs`. What the chapters
compare stands in `book/runs/comparisons.toml`.
"""

import tomllib
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmssf_lib.build import preset_of
from cmssf_lib.data import load
from cmssf_lib.evaluate import Comparison, compare
from cmssf_lib.files import records
from cmssf_lib.runs import Run

#: The accuracies whose answers a run keeps as "predictions".
PREDICTED = ("accuracy", "zero_shot")


def recorded(name: str) -> list[Run]:
    """Load all seeds of a recorded training, such as "quick/simclr".

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If one has no results.
    """
    folder = records() / name
    start = f"{folder.name}-s"
    beside = sorted(folder.parent.glob(f"{start}*"))
    numbered = [path for path in beside if path.name.removeprefix(start).isdigit()]
    if not numbered:
        raise FileNotFoundError(f"no recorded run is called {name}-s0, {name}-s1 and so on")
    found = [Run.load(path) for path in numbered]
    if without := [run.command for run in found if not run.results]:
        raise ValueError(f"{name}: a run has no results; make it again: {without[0]}")
    return found


def numbers(name: str, metric: str) -> list[float]:
    """Return one result for each seed, such as those of "knn"."""
    return [run.results[metric] for run in recorded(name)]


def right(name: str, metric: str) -> Float[Tensor, "seeds n"]:
    """Return for each seed and each test picture whether the answer was right, 1 or 0.

    Where a measure has several answers for a picture, one for each draw of the labels, it is the
    share of right ones. The mean of a row is the result of that seed.

    Args:
        name: A recorded training.
        metric: An accuracy, such as "knn"; or a loss of accuracy, such as "accuracy - only_image",
            which for a picture is 1, 0 or −1.

    Raises:
        KeyError: If the runs do not keep the answers behind this metric.
    """
    whole, minus, damaged = metric.partition(" - ")
    if minus:
        return right(name, whole) - right(name, damaged)
    rows = []
    for run in recorded(name):
        answers = run.outputs.get(metric)
        if answers is None and metric in PREDICTED:
            answers = run.outputs["predictions"]
        if answers is None:
            raise KeyError(f"{run.name} keeps no answers behind {metric!r}")
        hits = torch.from_numpy(answers == run.outputs["labels"]).float()  # (n,) or (draws, n)
        rows.append(hits if hits.ndim == 1 else hits.mean(dim=0))
    return torch.stack(rows)


def clusters(name: str) -> Int[Tensor, "n digits"] | None:
    """Return which handwritten digits each test scene shows, for `compare`; photographs: ``None``.

    Scenes that show the same one were not drawn independently.
    """
    return _clusters(str(recorded(name)[0].path))


@cache
def _clusters(path: str) -> Int[Tensor, "n digits"] | None:
    config = preset_of(Run.load(path).config).data
    if config.name != "digit_scenes":
        return None
    facts = load(config).test.attributes
    return torch.stack([ids for key, ids in facts.items() if key.endswith("_id")], dim=1)


def difference(one: str, other: str, metric: str, metric_of_other: str = "") -> Comparison:
    """Compare two recorded trainings, picture by picture, over all of their seeds.

    Args:
        one: Name of the first, such as "quick/simclr".
        other: Name of the second, with the same test set.
        metric: What is compared, as for `right`.
        metric_of_other: That of the second, if it has another name.

    Raises:
        ValueError: If the two were not tested on the same pictures.
    """
    labels = [recorded(name)[0].outputs["labels"].tolist() for name in (one, other)]
    if labels[0] != labels[1]:
        raise ValueError(f"{one} and {other} were tested on different pictures")
    scores = right(one, metric), right(other, metric_of_other or metric)
    return compare(*scores, clusters(one))


def family(chapter: str) -> dict[str, Comparison]:
    """Make all comparisons that a chapter declares; pass them to `verdicts` together.

    Args:
        chapter: A table of `book/runs/comparisons.toml`, such as "02_fusion".

    Raises:
        ValueError: If there is no such table.
    """
    tables = tomllib.loads((records() / "comparisons.toml").read_text("utf-8"))
    if chapter not in tables:
        raise ValueError(f"no comparisons of {chapter!r}; there are those of {', '.join(tables)}")
    return {label: difference(*compared) for label, compared in tables[chapter].items()}
