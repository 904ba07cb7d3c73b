"""Evaluation: what a trained method knows, measured on frozen embeddings.

`embed` runs the encoders once; everything else is arithmetic on what it returns. `report` puts
the measures of a finished run together, `monitor` the cheap ones of a run under way.
`probe_report` and `fine_tune_report` measure with few labels.

No measure here looks at a label while it embeds, and none updates a weight of the method it is
given: fine-tuning trains a copy. Whether the *method* used labels is another matter: class captions
are labels in words.
"""

from collections.abc import Sequence
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
    zero_shot_prompts as zero_shot_prompts,
    zero_shot_prompts_from_captions as zero_shot_prompts_from_captions,
)
from cmssf_lib.evaluate.few_labels import probe_report as probe_report
from cmssf_lib.evaluate.finetune import (
    FineTuneConfig as FineTuneConfig,
    FineTuned as FineTuned,
    fine_tune as fine_tune,
    fine_tune_report as fine_tune_report,
)
from cmssf_lib.evaluate.linear import (
    JudgeConfig as JudgeConfig,
    Probe as Probe,
    few_labels as few_labels,
    label_draws as label_draws,
    linear_probe as linear_probe,
    pixel_features as pixel_features,
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
from cmssf_lib.methods import CMSSF
from cmssf_lib.methods.base import evaluating


def report(
    method: CMSSF,
    splits: Splits,
    *,
    prompts: Sequence[Sequence[str]] | None = None,
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
        splits: Training set (bank and prompts) and test set.
        prompts: For each class its prompts; None: its captions in the training set.
        embedded: What `embed_features` makes of the training set and `embed` of the test set, if
            that is known already.

    Returns:
        Flat: name → number.

    Raises:
        ValueError: The test set is of one class or too small for k = 10, a class has no prompt,
            or embeddings hold NaN.
    """
    train, test = splits
    texts = class_captions(train) if prompts is None else prompts
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
    for name, found in (
        ("text_to_image_{}", retrieval(e.text[caption], e.image, label, e.labels)),
        ("exact_caption_{}", exact_caption_retrieval(e.image, e.text, e.caption_index)),
        ("{}_similarity", pair_similarity(e.image, e.text_per_image, e.labels)),
    ):
        results |= {name.format(part): value for part, value in found.items()}
    return results


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
    image = embed_images(method, validation)
    unique, labels = embed_texts(method, validation.unique_captions), validation.labels.cpu()
    text = unique[validation.caption_index.cpu()]
    first = retrieval(image, text, labels, labels, ks=(1,), mean_ap=False)
    on_device = validation.to(next(method.parameters()).device)
    with evaluating(method):
        # Shuffled once and for all: a data set sorted by class would give batches of one class.
        logged = [method.loss(batch) for batch in batches(on_device, batch_size, seed=0, epoch=0)]
    results = {
        **{name: fmean(each[name].item() for each in logged) for name in ("loss", "floor")},
        **{f"{name}_similarity": v for name, v in pair_similarity(image, text, labels).items()},
        "zero_shot": accuracy(zero_shot(image, prompt, prompt_class), labels),
        "retrieval_at_1": first["R@1"],
    }
    return {f"validation_{name}": value for name, value in results.items()}
