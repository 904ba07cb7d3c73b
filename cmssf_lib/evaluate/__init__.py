"""Evaluation: what a trained method knows, measured on frozen embeddings.

`embed` runs the encoders once; everything else is arithmetic on what it returns. `report` puts
the measures of a finished run together, `monitor` the cheap ones of a run under way.
`probe_report` and `fine_tune_report` measure with few labels what features are worth.

No measure here looks at a label while it embeds, and none updates a weight of the method it is
given: fine-tuning trains a copy. Whether the *method* used labels is another matter: class captions
are labels in words.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from cmssf_lib.data import ImageTextData, Splits, batches
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
from cmssf_lib.methods import CMSSF, Method
from cmssf_lib.methods.base import evaluating


def report(
    method: CMSSF,
    splits: Splits,
    *,
    embedded: tuple[Float[Tensor, "m width"], Embeddings] | None = None,
) -> dict[str, float]:
    """Measure a trained method on the test set.

    - `zero_shot`: accuracy by the class of the most similar prompt. Chance: one in the number of
      classes.
    - `zero_shot_ensemble`: the same with one mean prompt a class. Where every class has one
      prompt the two are equal.
    - `knn`: accuracy of the `knn_k` nearest training pictures, by features before the head.
    - `image_to_text_R@k`: a picture looks for a caption of its class among the captions of all
      test pictures. With one caption a class all k give the same number, that of `zero_shot`:
      the first k answers are one text.
    - `text_to_image_R@k`, `_P@k`, `_mAP`: each different caption looks for pictures of its class.
    - `exact_caption_R@k`: a picture looks for its very own caption, beside the ceiling that
      repeated captions set (`exact_caption_R@k_ceiling`).
    - `positive_similarity`, `different_class_similarity`, `contaminated_similarity`: see
      `pair_similarity`.

    Args:
        method: Trained.
        splits: Training set, whose pictures are the bank and whose captions the prompts, and test
            set.
        embedded: What `embed_features` makes of the training set and `embed` of the test set, if
            that is known already.

    Returns:
        Flat: name → number.

    Raises:
        ValueError: The test set is of one class or too small for k = 10, a class has no caption,
            or embeddings hold NaN.
    """
    train, test = splits
    texts = class_captions(train)
    prompt, prompt_class = embed_prompts(method, texts)
    bank, e = embedded or (embed_features(method, train), embed(method, test))
    means, k = zero_shot_prompts_from_captions(method, texts), usual_k(len(train))
    nearest = knn(bank, train.labels.cpu(), e.features, len(train.class_names), k)
    results = {
        "zero_shot": accuracy(zero_shot(e.image, prompt, prompt_class), e.labels),
        "zero_shot_ensemble": accuracy(zero_shot(e.image, means), e.labels),
        "knn": accuracy(nearest, e.labels),
        "knn_k": float(k),
    }
    image_to_text = retrieval(e.image, e.text_per_image, e.labels, e.labels, mean_ap=False)
    results |= {f"image_to_text_{name}": v for name, v in image_to_text.items() if name[0] == "R"}
    # A caption asks once for each class it is used for, however many pictures share it.
    caption, label = torch.stack([e.caption_index, e.labels]).unique(dim=1)  # (q,) both
    text_to_image = retrieval(e.text[caption], e.image, label, e.labels)
    results |= {f"text_to_image_{name}": v for name, v in text_to_image.items()}
    exact = exact_caption_retrieval(e.image, e.text, e.caption_index)
    results |= {f"exact_caption_{name}": v for name, v in exact.items()}
    pairs = pair_similarity(e.image, e.text_per_image, e.labels)
    return results | {f"{name}_similarity": v for name, v in pairs.items()}


def monitor(
    method: CMSSF,
    validation: ImageTextData,
    batch_size: int,
    *,
    prompts: Sequence[Sequence[str]] | None = None,
) -> dict[str, float]:
    """Measure a method on held-out pictures while it trains: a few columns of `history.csv`.

    Pictures are shown without random views. The loss depends on how many pairs compete, so it is
    averaged over whole batches of the training's own size, always the same ones; pictures left
    over at the end do not count for it, but for everything else they do.

    - `validation_loss`, `validation_floor`: the method's loss, and the floor of those batches. The
      floor bounds the one-hot and the multi-positive loss, not the others.
    - `validation_positive_similarity`, `_different_class_similarity`, `_contaminated_similarity`:
      see `pair_similarity`.
    - `validation_zero_shot`: accuracy by the class of the most similar prompt.
    - `validation_retrieval_at_1`: how often the first caption that a picture finds is of its
      class; the `image_to_text_R@1` of `report`.

    Args:
        method: In training; its modes and its weights are left as they are.
        validation: Held out from the training set. Not the test set: whatever is chosen by these
            numbers has been fitted to them.
        batch_size: That of the training, so that the losses can be compared.
        prompts: For each class its prompts; None: its captions among `validation`.

    Returns:
        Flat: column → number.

    Raises:
        ValueError: There is no whole batch, only one class, a class has no prompt, or embeddings
            hold NaN.
    """
    texts = class_captions(validation) if prompts is None else prompts
    prompt, prompt_class = embed_prompts(method, texts)
    e = embed(method, validation)
    first = retrieval(e.image, e.text_per_image, e.labels, e.labels, ks=(1,), mean_ap=False)
    pairs = pair_similarity(e.image, e.text_per_image, e.labels)
    with evaluating(method) as device:
        # Shuffled once and for all: a data set sorted by class would give batches of one class.
        shuffled = batches(validation.to(device), batch_size, seed=0, epoch=0)
        logged = [method.loss(batch) for batch in shuffled]
    results = {
        **{name: fmean(each[name].item() for each in logged) for name in ("loss", "floor")},
        **{f"{name}_similarity": v for name, v in pairs.items()},
        "zero_shot": accuracy(zero_shot(e.image, prompt, prompt_class), e.labels),
        "retrieval_at_1": first["R@1"],
    }
    return {f"validation_{name}": value for name, value in results.items()}


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

    For `per_class` and for each of `fractions` there is a name, such as "10_per_class", "1pct",
    "100pct", and under it:

    - `linear_<name>`: accuracy of `linear_probe`, the mean over `draws` choices of the labelled
      examples; `linear_<name>_std`, the standard deviation over these choices (0 for a single
      one); `linear_<name>_draws`, how many there were. All labels can be chosen in one way only.
    - `knn_<name>`: accuracy of the nearest among the same labelled examples, likewise the mean.
    - `labels_<name>`: how many labels that is.
    - `knn`, without a name: of the `knn_k` nearest, with the labels of the whole training set.

    The choices are those of the seeds 0, 1, …: every method is measured with the same labels.
    Baselines go the same way: raw pixels as `probe_report(pixel_features, splits)`, an untrained
    network as a method that was built and not trained.

    Args:
        method: Its weights, buffers and modes are left as they are; or a function from data to
            features; or the features of both sets.
        splits: Training set and test set. To choose a setting by these numbers, put a validation
            set in the place of the test set.
        per_class: Labels a class; None for none such.
        fractions: Parts of the training set.
        draws: Choices of labelled examples.
        predictions: If given, filled with the predicted classes behind each accuracy, under its
            name: (draws, n) for n test pictures, (n,) for `knn`.

    Returns:
        Flat: name → number.

    Raises:
        ValueError: There is nothing to measure, `draws` < 1, a class has too few examples, or
            features hold NaN.
    """
    train, test = splits
    chosen = label_draws(train, per_class, fractions, draws)
    classes, labels, truth = len(train.class_names), train.labels.cpu(), test.labels.cpu()
    if isinstance(method, Method):
        method = partial(embed_features, method)
    bank, queries = method if isinstance(method, tuple) else map(method, splits)

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
