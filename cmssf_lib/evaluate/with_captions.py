"""The measures of a model with an image and a text tower, after the training and during it."""

from collections.abc import Sequence
from statistics import fmean

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmssf_lib.data import ImageTextData, Splits, batches
from cmssf_lib.evaluate.embeddings import (
    Embeddings,
    class_captions,
    embed,
    embed_features,
    embed_prompts,
    zero_shot_prompts_from_captions,
)
from cmssf_lib.evaluate.neighbours import accuracy, knn, usual_k, zero_shot
from cmssf_lib.evaluate.retrieval import both_retrievals, pair_similarity, retrieval
from cmssf_lib.methods import CMSSF
from cmssf_lib.methods.base import evaluating


def report(
    method: CMSSF,
    splits: Splits,
    *,
    embedded: tuple[Float[Tensor, "m width"], Embeddings] | None = None,
    predictions: dict[str, Tensor] | None = None,
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

    Without classes (a `plain_folder`), each picture is a class of its own in the searches and the
    similarities, and nothing is classified.

    Args:
        method: A trained method.
        splits: The training set, which supplies the k-NN bank and the prompts, and the test set.
        embedded: The outputs of `embed_features` for the training set and of `embed` for the test
            set, if already computed.
        predictions: If given and there are classes, filled with the predicted classes behind
            "zero_shot" ("predictions"), "zero_shot_ensemble" and "knn", the embeddings of the
            "prompts", and "prompt_classes".

    Returns:
        A flat dictionary: name → number.

    Raises:
        ValueError: If the test set has only one of the classes or is too small for k = 10, a class
            has no caption, or embeddings contain NaN.
    """
    train, test = splits
    bank, e = embedded or (embed_features(method, train), embed(method, test))
    classes, results = len(train.class_names), dict[str, float]()
    if classes > 1:
        texts, k = class_captions(train), usual_k(len(train))
        prompts, prompt_classes = embed_prompts(method, texts)
        answers = zero_shot(e.image, prompts, prompt_classes)
        means = zero_shot_prompts_from_captions(method, texts)
        said = {"zero_shot": answers, "zero_shot_ensemble": zero_shot(e.image, means)}
        said["knn"] = knn(bank, train.labels.cpu(), e.features, classes, k)
        results = {name: accuracy(given, e.labels) for name, given in said.items()}
        results["knn_k"] = float(k)
        if predictions is not None:
            predictions |= {"predictions": said.pop("zero_shot"), **said}
            predictions |= {"prompts": prompts, "prompt_classes": prompt_classes}
    labels = _labels(e, classes)
    results |= both_retrievals(e.image, e.text, e.caption_pairs, labels)
    return results | _similarities(e, labels)


def _labels(e: Embeddings, classes: int) -> Int[Tensor, " n"]:
    """Return each picture's class; without classes, one of its own."""
    return e.labels if classes > 1 else torch.arange(len(e.labels))


def _similarities(e: Embeddings, labels: Int[Tensor, " n"]) -> dict[str, float]:
    """Return `pair_similarity` of all pictures and their captions."""
    picture, caption = e.caption_pairs
    pairs = pair_similarity(e.image[picture], e.text[caption], labels[picture], picture)
    return {f"{name}_similarity": value for name, value in pairs.items()}


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

    Without classes, each picture is a class of its own, and `validation_zero_shot` is left out.

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
    e, classified = embed(method, validation), dict[str, float]()
    if len(validation.class_names) > 1:
        texts = class_captions(validation) if prompts is None else prompts
        prompt, prompt_class = embed_prompts(method, texts)
        classified["zero_shot"] = accuracy(zero_shot(e.image, prompt, prompt_class), e.labels)
    labels, (picture, caption) = _labels(e, len(validation.class_names)), e.caption_pairs
    first = retrieval(e.image, e.text[caption], labels, labels[picture], ks=(1,), mean_ap=False)
    with evaluating(method) as device:
        # Always the same batches; shuffled, since sorted data would give batches of one class.
        shuffled = batches(validation.to(device), batch_size, seed=0, epoch=0)
        logged = [method.loss(batch) for batch in shuffled]
    results = {
        **{name: fmean(each[name].item() for each in logged) for name in ("loss", "floor")},
        **_similarities(e, labels),
        **classified,
        "retrieval_at_1": first["R@1"],
    }
    return {f"validation_{name}": value for name, value in results.items()}
