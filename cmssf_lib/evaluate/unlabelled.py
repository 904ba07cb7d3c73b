"""What features are worth, measured without labels."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cmssf_lib.data import ImageTextData
from cmssf_lib.evaluate.embeddings import embed_features
from cmssf_lib.evaluate.retrieval import retrieval
from cmssf_lib.methods import Method
from cmssf_lib.train import effective_rank, feature_std

LARGEST = 1000  # pictures: R@1 depends on their number, so larger sets are measured in part


def view_report(
    method: Method, data: ImageTextData, views: Callable[..., Float[Tensor, "b 3 h w"]]
) -> dict[str, float]:
    """Measure frozen features by two random views of each picture, without any label.

    They say whether features tell pictures apart and ignore what views change, which is what a
    self-supervised loss asks for. They do *not* say whether features suit a task: for that, label
    a few pictures and use `probe_report`.

    - `same_picture_R@1`: how often the nearest second view of a first view is of the same picture.
      Chance is 1 / `same_picture_n`.
    - `alignment`: mean squared distance between the unit features of a picture's two views. 0 if
      the views make no difference, 2 for unrelated features.
    - `uniformity`: logarithm of the mean of exp(-2·d²) over all pairs of different pictures at the
      distance d: 0 if all features are equal, and about -4 if they fill the sphere evenly.
    - `feature_std`, `effective_rank`: see `cmssf_lib.train`; both are low after a collapse.

    Args:
        method: A method, which does not change.
        data: Pictures that it was not trained on. Of a large set, the first thousand are used.
        views: Makes a view of each picture, as `Views` do. A method's own are its ``views``;
            methods can only be compared by the same ones.

    Returns:
        A flat dictionary: name → number. The views use a fixed seed.

    Raises:
        ValueError: If there is only one picture, or features contain NaN.

    References:
        Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
        Uniformity on the Hypersphere", section 4.1.
    """
    images, random = data.images[:LARGEST].cpu(), torch.Generator().manual_seed(0)
    first, second = (embed_features(method, views(images, generator=random)) for _ in range(2))
    n = len(images)
    own = torch.arange(n)
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)  # (n, width)
    found = retrieval(a, b, own, own, ks=(1,), mean_ap=False)
    return {
        "same_picture_R@1": found["R@1"],
        "same_picture_n": float(n),
        "alignment": float((a - b).square().sum(dim=1).mean()),
        "uniformity": float(torch.pdist(a).square().mul(-2).exp().mean().log()),
        "feature_std": float(feature_std(first)),
        "effective_rank": float(effective_rank(first)),
    }
