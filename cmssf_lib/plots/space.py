"""Pictures of the shared space."""

from collections.abc import Sequence

from jaxtyping import Float, Int
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor

from cmssf_lib.plots.style import COLOURS, INK, MARKERS, frame, panels, styled


@styled
def tsne(
    embeddings: Float[Tensor, "n dim"],
    labels: Int[Tensor, "n"],
    class_names: Sequence[str],
    *,
    seed: int = 0,
    perplexity: float = 30.0,
) -> Figure:
    """Lay embeddings out in the plane so that near ones stay near (van der Maaten, Hinton 2008).

    Distances between clusters, and their sizes, mean little; another seed or perplexity gives
    another picture. Both therefore stand in the figure.

    Args:
        embeddings: A few hundred to a few thousand.
        labels: Their classes, shown by marker and colour.
        class_names: What the labels stand for, at most 80.
        seed: Of the layout.
        perplexity: About how many neighbours each point minds; below the number of points.

    Returns:
        The figure.

    Raises:
        ValueError: If labels do not fit, or the perplexity is not below the number of points.
    """
    n = len(embeddings)
    if labels.shape != (n,) or n == 0:
        raise ValueError(f"{n} embeddings, labels of shape {tuple(labels.shape)}: one each, please")
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise ValueError(f"a label lies outside the {len(class_names)} classes")
    if not 0 < perplexity < n:
        raise ValueError(f"perplexity is {perplexity} for {n} points; expected less than that")
    layout = TSNE(perplexity=perplexity, random_state=seed, init="pca", learning_rate="auto")
    points = layout.fit_transform(embeddings.detach().cpu().numpy())  # (n, 2)
    known = labels.cpu().numpy()
    figure, ((axes,),) = panels(height=5.2)
    colours = list(COLOURS.values())
    for label, name in enumerate(class_names):
        chosen = points[known == label]
        axes.scatter(
            *chosen.T,
            s=22,
            # Eight colours, ten markers: no two of the first forty classes share both.
            color=colours[label % len(colours)],
            marker=MARKERS[label % len(MARKERS)],
            edgecolors=INK,
            linewidths=0.3,
            alpha=0.85,
            label=name,
        )
    frame(axes)
    axes.set_aspect("equal", "datalim")
    axes.set_title(f"t-SNE of {n} embeddings, perplexity {perplexity:g}, seed {seed}", loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure
