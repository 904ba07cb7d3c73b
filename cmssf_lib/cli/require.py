"""What measuring needs, checked before the first step of a training."""

from collections.abc import Iterator

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
    if fault := next(_faults(splits, validation, chosen, method_name), None):
        raise ValueError(fault)


def _faults(
    splits: Splits, validation: ImageTextData, chosen: Preset, method_name: str
) -> Iterator[str]:
    """Yield what keeps a method from being measured; see `require_measurable`."""
    asked, train, batch = chosen.judge, chosen.train, chosen.fine_tune.batch_size
    training, test = splits
    classes, held_out = len(training.class_names), f"data.validation={len(validation)} holds out"
    if asked.pixels and not isinstance(training.images, Tensor):
        yield "pictures on disk are not compared as pixels: set judge.pixels=False"
    if classes == 1 and method_name in ("supervised", "fusion"):
        yield f"{method_name} needs classes, such as train/<class>/*; {training.name} has only one"
    if method_name == "cmssf":
        if len(training.unique_captions) < 2:
            yield f"all captions of {training.name} are equal: there is nothing to learn"
        if len(test) < LAST_K:
            yield f"{test.name} has {len(test)} pictures; R@{LAST_K} needs {LAST_K}"
        if train.epochs and len(validation) < train.batch_size:
            yield f"{held_out} too few pictures for one batch of {train.batch_size}"
    if classes > 1 and train.epochs and len(validation.labels.unique()) < 2:
        yield f"{held_out} pictures of one class only: hold out more"
    kept, lost = (data.labels.bincount(minlength=classes) for data in (training, validation))
    if train.epochs and not (kept - lost).all():
        yield f"{held_out} all pictures of {training.class_names[int((kept - lost).argmin())]!r}"
    if len(validation) < 2 or len(test) < 2:
        yield "at least two pictures for validation and two for testing are needed"
    if classes == 1 or method_name == "fusion" or (method_name == "cmssf" and not asked.fractions):
        return
    drawn = evaluate.label_draws(training, asked.per_class or None, asked.fractions, asked.draws)
    for name, (choice, *_) in drawn.items():
        fewest = int(training.labels.cpu()[choice].bincount(minlength=classes).min())
        if fewest < 2:
            yield (
                f"{name} gives a class only {fewest} of the two labels that a linear classifier "
                "needs: increase judge.fractions or judge.per_class"
            )
        if (asked.fine_tune or method_name == "mae") and len(choice) < batch:
            yield (
                f"with {name}, there are {len(choice)} labelled pictures, fewer than a batch of "
                f"the fine-tuning: add labels or reduce fine_tune.batch_size={batch}"
            )
