"""All measures at once: of a finished run, and of a run under way."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cmssf_lib.data import batches
from cmssf_lib.evaluate.classify import (
    accuracy,
    class_captions,
    embed_prompts,
    knn,
    nearest_pixels,
    zero_shot,
    zero_shot_prompts_from_captions,
)
from cmssf_lib.evaluate.embeddings import (
    embed,
    embed_features,
    embed_images,
    embed_texts,
    evaluating,
)
from cmssf_lib.evaluate.retrieve import exact_caption_retrieval, pair_similarity, retrieval

if TYPE_CHECKING:
    from cmssf_lib.cmssf import CMSSF
    from cmssf_lib.data import ImageTextData, Splits


def report(
    method: "CMSSF",
    splits: "Splits",
    *,
    prompts: Sequence[Sequence[str]] | None = None,
    k: int | None = None,
    pixels: bool = False,
    batch_size: int = 256,
) -> dict[str, float]:
    """Measure a trained method on the test set.

    - `zero_shot`: accuracy by the class of the most similar prompt. Chance: one in the number of
      classes.
    - `zero_shot_ensemble`: the same with one mean prompt a class. Where every class has one
      prompt the two are equal.
    - `knn`: accuracy of the `knn_k` nearest training pictures, by features before the head.
    - `pixels_1nn` (if asked for): accuracy of the nearest training picture in raw pixels.
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
        splits: Training set (bank and prompts) and test set.
        prompts: For each class its prompts; None: its captions in the training set.
        k: Neighbours that vote. None: 200, or a tenth of a training set below 2,000.
        pixels: Whether to compare raw pixels as well: seconds for digit scenes, minutes for
            CIFAR-10 on a CPU.
        batch_size: Pictures encoded at a time; changes nothing but memory.

    Returns:
        Flat: name → number.

    Raises:
        ValueError: The test set is of one class or too small for k = 10, a class has no prompt,
            `k` exceeds the training set, or embeddings hold NaN.
    """
    train, test = splits
    if k is None:
        k = min(200, max(1, len(train) // 10))
    texts = class_captions(train) if prompts is None else prompts
    prompt, prompt_class = embed_prompts(method, texts)
    e = embed(method, test, batch_size)
    bank = embed_features(method, train, batch_size)
    neighbours = knn(bank, train.labels.cpu(), e.features, len(train.class_names), k)
    results = {
        "zero_shot": accuracy(zero_shot(e.image, prompt, prompt_class), e.labels),
        "zero_shot_ensemble": accuracy(
            zero_shot(e.image, zero_shot_prompts_from_captions(method, texts)), e.labels
        ),
        "knn": accuracy(neighbours, e.labels),
        "knn_k": float(k),
    }
    if pixels:
        results["pixels_1nn"] = nearest_pixels(train, test)
    image_to_text = retrieval(e.image, e.text_per_image, e.labels, e.labels, mean_ap=False)
    results |= {f"image_to_text_{name}": v for name, v in image_to_text.items() if name[0] == "R"}
    # A caption asks once for each class it is used for, however many pictures share it.
    caption, label = torch.stack([e.caption_index, e.labels]).unique(dim=1)  # (q,) both
    text_to_image = retrieval(e.text[caption], e.image, label, e.labels)
    results |= {f"text_to_image_{name}": v for name, v in text_to_image.items()}
    exact = exact_caption_retrieval(e.image, e.text, e.caption_index)
    results |= {f"exact_caption_{name}": v for name, v in exact.items()}
    pairs = pair_similarity(e.image, e.text_per_image, e.labels)
    results |= {f"{name}_similarity": v for name, v in pairs.items()}
    return results


def monitor(
    method: "CMSSF",
    validation: "ImageTextData",
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
    image = embed_images(method, validation)
    unique, labels = embed_texts(method, validation.unique_captions), validation.labels.cpu()
    text = unique[validation.caption_index.cpu()]
    first = retrieval(image, text, labels, labels, ks=(1,), mean_ap=False)
    results = {
        **validation_loss(method, validation, batch_size),
        **{f"{name}_similarity": v for name, v in pair_similarity(image, text, labels).items()},
        "zero_shot": accuracy(zero_shot(image, prompt, prompt_class), labels),
        "retrieval_at_1": first["R@1"],
    }
    return {f"validation_{name}": value for name, value in results.items()}


def validation_loss(
    method: "CMSSF", validation: "ImageTextData", batch_size: int
) -> dict[str, float]:
    """Return the mean "loss" and "floor" over whole batches, in evaluation mode."""
    sums = {"loss": 0.0, "floor": 0.0}
    count = 0
    device = next(method.parameters()).device
    with evaluating(method):
        # Shuffled once and for all: a data set sorted by class would give batches of one class.
        for batch in batches(validation.to(device), batch_size, seed=0, epoch=0):
            logged = method.loss(batch)
            sums = {name: total + logged[name].item() for name, total in sums.items()}
            count += 1
    return {name: total / count for name, total in sums.items()}
