"""Evaluation: what a trained method has learned, measured on frozen embeddings.

`embed` runs the encoders once; most measures are then computed from its output. `report` collects
the measures of a finished run, `monitor` the cheap ones while a run is still training.
`probe_report` and `fine_tune_report` measure how useful the features are with few labels.

No measure here uses labels to compute embeddings, and none changes the weights of the method that
it is given: fine-tuning trains a copy. The *method* itself may have used labels in training: class
captions, for example, are labels in words.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.evaluate.embeddings import (
    Embeddings as Embeddings,
    class_captions as class_captions,
    embed as embed,
    embed_features as embed_features,
    embed_images as embed_images,
    embed_mirrored as embed_mirrored,
    embed_prompts as embed_prompts,
    embed_texts as embed_texts,
    pixel_features as pixel_features,
    zero_shot_prompts_from_captions as zero_shot_prompts_from_captions,
)
from cmssf_lib.evaluate.finetune import (
    FineTuneConfig as FineTuneConfig,
    FineTuned as FineTuned,
    fine_tune as fine_tune,
    fine_tune_report as fine_tune_report,
)
from cmssf_lib.evaluate.linear import (
    JudgeConfig as JudgeConfig,
    few_labels as few_labels,
    label_draws as label_draws,
    linear_probe as linear_probe,
    with_each_choice,
)
from cmssf_lib.evaluate.neighbours import (
    accuracy as accuracy,
    confusion as confusion,
    knn as knn,
    nearest_pixels as nearest_pixels,
    usual_k as usual_k,
    zero_shot as zero_shot,
)
from cmssf_lib.evaluate.retrieval import (
    both_retrievals as both_retrievals,
    exact_caption_retrieval as exact_caption_retrieval,
    pair_similarity as pair_similarity,
    retrieval as retrieval,
)
from cmssf_lib.evaluate.robustness import (
    caption_ceiling as caption_ceiling,
    fusion_monitor as fusion_monitor,
    fusion_report as fusion_report,
    joint_ceiling as joint_ceiling,
    output_fusion_ceiling as output_fusion_ceiling,
    single_ceiling as single_ceiling,
)
from cmssf_lib.evaluate.statistics import (
    Comparison as Comparison,
    compare as compare,
    holm as holm,
    share_interval as share_interval,
    verdicts as verdicts,
)
from cmssf_lib.evaluate.unlabelled import view_report as view_report
from cmssf_lib.evaluate.with_captions import monitor as monitor, report as report
from cmssf_lib.methods import Method


def probe_report(
    method: Method
    | Callable[[ImageTextData], Float[Tensor, "n width"]]
    | tuple[Float[Tensor, "m width"], Float[Tensor, "n width"]],
    splits: Splits,
    *,
    per_class: int | None = 10,
    fractions: Sequence[float] = (),
    draws: int = 3,
    predictions: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Measure frozen features on the test set, with few labels and with many.

    `per_class` and each of `fractions` gets a name, such as "10_per_class", "1pct" or "100pct".
    The results use these names:

    - `linear_<name>`: accuracy of `linear_probe`, averaged over `draws` random choices of the
      labelled examples; `linear_<name>_std`: the standard deviation over these choices (0 if there
      is only one); `linear_<name>_draws`: the number of choices (1 if all labels are used).
    - `knn_<name>`: accuracy of k-NN with the same labelled examples as the bank, averaged likewise.
    - `labels_<name>`: the number of labels.
    - `knn`, without a name: accuracy of the `knn_k` nearest in the whole labelled training set.

    The choices use the seeds 0, 1, …, so every method is measured with the same labels. Measure
    baselines in the same way: raw pixels with `probe_report(pixel_features, splits)`, an untrained
    network by passing a method before its training.

    Args:
        method: A method, whose weights, buffers and modes do not change; or a function that maps
            data to features; or the features of both sets.
        splits: Training set and test set. To choose settings by these numbers, pass a validation
            set instead of the test set.
        per_class: Number of labels per class; None to measure with `fractions` only.
        fractions: Fractions of the training set.
        draws: Number of random choices of labelled examples.
        predictions: If given, filled with the predicted classes behind each accuracy, under the
            same name: (draws, n) for n test pictures, (n,) for `knn`.

    Returns:
        A flat dictionary: name → number.

    Raises:
        ValueError: If `per_class` and `fractions` are both missing, `draws` < 1, a class has too
            few examples, or features contain NaN.
    """
    train, test = splits
    chosen = label_draws(train, per_class, fractions, draws)
    classes, labels, truth = len(train.class_names), train.labels.cpu(), test.labels.cpu()
    if isinstance(method, Method):
        method = partial(embed_features, method)
    features = method if isinstance(method, tuple) else map(method, splits)
    bank, queries = (each.cpu() for each in features)

    def linear(index: Tensor, draw: int) -> Tensor:
        return linear_probe(bank[index], labels[index], queries)

    def nearest(index: Tensor, draw: int) -> Tensor:
        return knn(bank[index], labels[index], queries, classes, usual_k(len(index)))

    answers = {} if predictions is None else predictions
    answers["knn"] = nearest(torch.arange(len(train)), 0)
    results = with_each_choice("linear", chosen, linear, truth, answers)
    voted = with_each_choice("knn", chosen, nearest, truth, answers)
    for name, indices in chosen.items():
        results[f"knn_{name}"] = voted[f"knn_{name}"]
        results[f"labels_{name}"] = float(len(indices[0]))
    return {"knn": accuracy(answers["knn"], truth), "knn_k": float(usual_k(len(train))), **results}
