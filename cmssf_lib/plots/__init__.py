"""Figures: one function per figure, which takes runs or results and returns the figure.

The functions neither show the figure nor change a matplotlib setting: a notebook displays the last
value of a cell, and a script calls ``savefig``. People with any kind of colour vision can
distinguish the colours (Okabe and Ito, 2008), and whatever a colour encodes, a line style, a marker
or a frame encodes too. Every figure has a white background, even on a dark page.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from statistics import median

from cmssf_lib.environment import machines
from cmssf_lib.plots.comparisons import (
    accuracy_over as accuracy_over,
    accuracy_points as accuracy_points,
    claimed_and_measured as claimed_and_measured,
    robustness_curves as robustness_curves,
    setting_sweeps as setting_sweeps,
)
from cmssf_lib.plots.curves import (
    LiveLoss as LiveLoss,
    loss_curves as loss_curves,
    losses_by_batch as losses_by_batch,
    retrieval_curve as retrieval_curve,
    run_curves as run_curves,
    similarity_curves as similarity_curves,
)
from cmssf_lib.plots.diagrams import (
    cmssf_diagram as cmssf_diagram,
    co_attention_diagram as co_attention_diagram,
    masked_autoencoder_diagram as masked_autoencoder_diagram,
    pairs_on_circle as pairs_on_circle,
    tsne as tsne,
)
from cmssf_lib.plots.intervals import forest as forest
from cmssf_lib.plots.overlays import (
    attention_maps as attention_maps,
    attention_pixels as attention_pixels,
    cls_attention_grid as cls_attention_grid,
    confusion_matrix as confusion_matrix,
    pair_matrices as pair_matrices,
    reconstructions as reconstructions,
)
from cmssf_lib.plots.pictures import (
    caption_grid as caption_grid,
    image_grid as image_grid,
    masked_pictures as masked_pictures,
    retrieval_gallery as retrieval_gallery,
    tone_panels as tone_panels,
    views_grid as views_grid,
)
from cmssf_lib.plots.style import COLOURS as COLOURS, Picture as Picture, panels as panels
from cmssf_lib.runs import Run

SEED = re.compile(r"-s(\d+)$")  # ends the name of a run that was repeated with several seeds
HEAD = ("run", "seeds", "epochs", "minutes each", "machine", "made again by")


class RunCard:
    """Summarise the runs behind a figure in a table.

    There is one row per training. Runs whose names differ only in the seed (``-s0``, ``-s1`` and so
    on) are one training; its minutes are their median. A notebook shows the table as a single line
    that the reader can expand.

    Args:
        found: Runs, or (nested) collections of runs; of a dictionary, its values.

    Attributes:
        rows: A tuple of six texts for each training, in the order of `HEAD`.

    Raises:
        ValueError: If there are no runs, or something is neither a run nor a collection of runs.
    """

    def __init__(self, *found: object) -> None:
        groups: dict[str, list[Run]] = defaultdict(list)
        for name, run in {run.name: run for run in _runs(found)}.items():
            groups[SEED.sub("", name)].append(run)
        if not groups:
            raise ValueError("expected at least one run; got no runs")
        self.rows = [(name, *_row(of)) for name, of in groups.items()]

    @property
    def line(self) -> str:
        """The sentence that is visible while the table is closed."""
        seeds = sorted({len(row[1].split(",")) for row in self.rows})
        many = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
        count = f"{len(self.rows)} recorded training{'s' * (len(self.rows) > 1)}"
        return f"Drawn from {count}, {many} seed{'s' * (seeds[-1] > 1)} each"

    def __repr__(self) -> str:
        return "\n".join([f"{self.line}.", *(" | ".join(row) for row in (HEAD, *self.rows))])

    def _repr_html_(self) -> str:
        cells = [("th", HEAD), *(("td", row) for row in self.rows)]
        rows = ("".join(f"<{tag}>{escape(text)}</{tag}>" for text in row) for tag, row in cells)
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        summary = f"<summary>{self.line}</summary>"
        return f'<details class="run-card">{summary}<table>{table}</table></details>'


def _runs(found: object) -> Iterator[Run]:
    if isinstance(found, Run):
        yield found
    elif isinstance(found, str) or not isinstance(found, Iterable):
        raise ValueError(f"expected a run or a collection of runs; got {found!r}")
    else:
        for part in found.values() if isinstance(found, Mapping) else found:
            yield from _runs(part)


def _row(of: list[Run]) -> tuple[str, ...]:
    minutes = median(sum(r.get("seconds", 0.0) for r in run.history) / 60 for run in of)
    return (
        ", ".join(str(run.config["train"]["seed"]) for run in of),
        " or ".join(dict.fromkeys(str(len(run.history)) for run in of)),
        f"{minutes:.1f}" if minutes < 10 else f"{minutes:.0f}",
        " or ".join(dict.fromkeys(machines(run.environment) for run in of)),
        of[0].command,
    )
