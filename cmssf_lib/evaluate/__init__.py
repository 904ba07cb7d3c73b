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
from cmssf_lib.methods import CMSSF, Method
from cmssf_lib.methods.base import evaluating


def report(
    method: CMSSF,
    splits: Splits,
    *,
    embedded: tuple[Float[Tensor, "m width"], Embeddings] | None = None,
) -> dict[str, float]:
    """Measure a trained method on the test set.

    - `zero_shot`: accuracy when each picture gets the class of its most similar prompt. Chance:
      1 / number of classes.
    - `zero_shot_ensemble`: the same with one mean prompt per class. If every class has a single
      prompt, the two are equal.
    - `knn`: accuracy of a vote among the `knn_k` nearest training pictures, on features before the
      head.
    - `image_to_text_R@k`: each picture searches the captions of all test pictures for one of its
      class. With one caption per class, every k gives the same number as `zero_shot`, because
      the first k answers are the same text.
    - `text_to_image_R@k`, `_P@k`, `_mAP`: each distinct caption searches for pictures of its class.
    - `exact_caption_R@k`: each picture searches for its own caption, or any of several;
      `exact_caption_R@k_ceiling`: the best possible value, since captions repeat.
    - `exact_picture_R@k`, if pictures have several captions: each searches for its own picture.
    - `positive_similarity`, `different_class_similarity`, `contaminated_similarity`: see
      `pair_similarity`.

    Args:
        method: A trained method.
        splits: The training set, which supplies the k-NN bank and the prompts, and the test set.
        embedded: The outputs of `embed_features` for the training set and of `embed` for the test
            set, if already computed.

    Returns:
        A flat dictionary: name → number.

    Raises:
        ValueError: If the test set has only one class or is too small for k = 10, a class has no
            caption, or embeddings contain NaN.
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
    results |= both_retrievals(e.image, e.text, e.caption_pairs, e.labels)
    picture, caption = e.caption_pairs
    pairs = pair_similarity(e.image[picture], e.text[caption], e.labels[picture], picture)
    return results | {f"{name}_similarity": v for name, v in pairs.items()}


def monitor(
    method: CMSSF,
    validation: ImageTextData,
    batch_size: int,
    *,
    prompts: Sequence[Sequence[str]] | None = None,
) -> dict[str, float]:
    """Measure a method on held-out pictures during training: some columns of `history.csv`.

    Pictures are not augmented. The loss depends on the number of negatives, so it is averaged over
    full batches of the training's batch size, the same batches every time. Pictures left over
    after the last full batch are excluded from the loss but included in everything else.

    - `validation_loss`, `validation_floor`: the method's loss, and the floor of those batches. The
      floor is a lower bound of the one-hot and the multi-positive loss, not of the others.
    - `validation_positive_similarity`, `_different_class_similarity`, `_contaminated_similarity`:
      see `pair_similarity`.
    - `validation_zero_shot`: accuracy when each picture gets the class of its most similar prompt.
    - `validation_retrieval_at_1`: how often the caption most similar to a picture belongs to the
      picture's class; the same measure as `image_to_text_R@1` in `report`.

    Args:
        method: The method in training; its modes and weights do not change.
        validation: Pictures held out from the training set. Do not pass the test set: a choice
            made by these numbers is fitted to these pictures.
        batch_size: Batch size of the training, so that the losses can be compared.
        prompts: The prompts of each class; None: the class's captions in `validation`.

    Returns:
        A flat dictionary: column → number.

    Raises:
        ValueError: If there is no full batch, there is only one class, a class has no prompt, or
            embeddings contain NaN.
    """
    texts = class_captions(validation) if prompts is None else prompts
    prompt, prompt_class = embed_prompts(method, texts)
    e = embed(method, validation)
    picture, caption = e.caption_pairs
    of, text = e.labels[picture], e.text[caption]
    first = retrieval(e.image, text, e.labels, of, ks=(1,), mean_ap=False)
    pairs = pair_similarity(e.image[picture], text, of, picture)
    with evaluating(method) as device:
        # Always the same batches; shuffled, since sorted data would give batches of one class.
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
