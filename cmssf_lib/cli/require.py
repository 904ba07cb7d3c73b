"""What measuring needs, checked before the first step of a training."""

from torch import Tensor

from cmssf_lib import evaluate
from cmssf_lib.data import ImageTextData, Splits
from cmssf_lib.presets import Preset

LAST_K = 10  # R@10 needs so many pictures and captions


def require_measurable(
    splits: Splits, validation: ImageTextData, chosen: Preset, method_name: str
) -> None:
    """Check before the training that the evaluation after it will be possible.

    Args:
        splits: The whole training set, from which the labelled pictures are chosen, and the test
            set.
        validation: The pictures held out from the training set.
        chosen: The preset.
        method_name: The method to be measured.

    Raises:
        ValueError: If too few pictures are held out or tested, pictures have no classes or no
            captions that the method learns from, or a choice of labelled pictures is too small for
            a linear classifier or for a batch of the fine-tuning.
    """
    asked, train, batch = chosen.judge, chosen.train, chosen.fine_tune.batch_size
    training, test = splits
    classes = len(training.class_names)
    if asked.pixels and not isinstance(training.images, Tensor):
        raise ValueError("pictures on disk are not compared as pixels: set judge.pixels=False")
    if classes == 1 and method_name in ("supervised", "fusion"):
        raise ValueError(f"{method_name} learns classes, but {training.name} has only one")
    if method_name == "cmssf":
        if len(training.unique_captions) < 2:
            raise ValueError(
                f"all captions of {training.name} are equal: there is nothing to learn"
            )
        if len(test) < LAST_K:
            raise ValueError(f"{test.name} has {len(test)} pictures; R@{LAST_K} needs {LAST_K}")
        if train.epochs and len(validation) < train.batch_size:
            raise ValueError(
                f"data.validation={len(validation)} holds out too few pictures for validation: "
                f"{method_name} needs at least one batch of {train.batch_size}"
            )
    if classes > 1 and train.epochs and len(validation.labels.unique()) < 2:
        raise ValueError(
            f"data.validation={len(validation)} holds out pictures of one class only: hold out more"
        )
    left = training.labels.bincount(minlength=classes) - validation.labels.bincount(
        minlength=classes
    )
    if train.epochs and not left.all():
        name = training.class_names[int(left.argmin())]
        raise ValueError(f"data.validation={len(validation)} holds out all pictures of {name!r}")
    if len(validation) < 2 or len(test) < 2:
        raise ValueError("at least two pictures for validation and two for testing are needed")
    if classes == 1 or method_name == "fusion" or (method_name == "cmssf" and not asked.fractions):
        return
    drawn = evaluate.label_draws(training, asked.per_class or None, asked.fractions, asked.draws)
    for name, (choice, *_) in drawn.items():
        labels = training.labels.cpu()[choice]
        fewest = int(labels.bincount(minlength=classes).min())
        if fewest < 2:
            raise ValueError(
                f"{name} gives a class only {fewest} of the two labels that a linear classifier "
                "needs: increase judge.fractions or judge.per_class"
            )
        if (asked.fine_tune or method_name == "mae") and len(choice) < batch:
            raise ValueError(
                f"with {name}, there are {len(choice)} labelled pictures, fewer than a batch of "
                f"the fine-tuning: add labels or reduce fine_tune.batch_size={batch}"
            )
