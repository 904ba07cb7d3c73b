"""Which settings cannot act, and why: whoever gives one of them is told."""

from cmssf_lib.presets.preset import Preset


def idle(chosen: Preset, method: str) -> dict[str, str]:
    """Return the settings that change nothing as long as the others are what they are.

    Args:
        chosen: A preset with its changes.
        method: The method to be trained.

    Returns:
        Name of a setting, or of a whole group such as "fine_tune." → why it cannot act.
    """
    data, vision, text, train = chosen.data, chosen.vision, chosen.text, chosen.train
    cmssf, fusion, judge = chosen.cmssf, chosen.fusion, chosen.judge
    scenes, cifar, plain = (
        data.name == name for name in ("digit_scenes", "cifar10", "plain_folder")
    )
    choosing = method != "cmssf" or bool(judge.fractions)  # of labelled pictures
    tuned = (judge.fine_tune or method == "mae") and choosing and not plain
    cases = (
        (not scenes, "data.flavour data.train data.sound_noise", "only digit scenes have that"),
        (not scenes and not plain, "data.test", "these data have a test set of their own"),
        (cifar, "data.image_size", "the pictures of CIFAR-10 have 32 pixels"),
        (scenes, "data.path", "digit scenes are drawn, not read"),
        (data.sound == "none", "data.sound_noise", "there is no sound"),
        (vision.kind != "timm", "vision.timm_name", "vision.kind is not timm"),
        (
            vision.kind == "timm",
            "vision.patch_size vision.width vision.depth vision.heads",
            "the model of timm decides that",
        ),
        (
            not vision.kind.startswith("conv_stem"),
            "vision.norm vision.halve",
            "only a convolutional stem has that",
        ),
        (text.kind == "scratch", "text.name", "text.kind is scratch"),
        (
            text.kind != "scratch",
            "text.width text.depth text.heads text.max_length text.dropout",
            "the pretrained model decides that",
        ),
        (
            train.epochs == 0,
            "train.batch_size train.lr train.text_lr train.weight_decay train.optimizer "
            "train.schedule train.warmup train.clip train.precision train.checkpoint_minutes",
            "train.epochs is 0",
        ),
        (method != "cmssf", "train.text_lr", "only cmssf has a text tower"),
        (plain and method != "cmssf", "judge.", "without classes, nothing is measured with labels"),
        (
            not choosing,
            "judge.per_class judge.draws judge.pixels judge.fine_tune",
            "judge.fractions is empty",
        ),
        (method == "mae", "judge.fine_tune", "a masked autoencoder is always fine-tuned"),
        (not tuned, "fine_tune.", "judge.fine_tune is off, or there are no labels"),
        (
            chosen.fine_tune.steps == 0,
            "fine_tune.batch_size fine_tune.lr fine_tune.baseline fine_tune.views.",
            "fine_tune.steps is 0",
        ),
        (cmssf.depth == 0, "cmssf.hidden cmssf.head_norm", "cmssf.depth is 0"),
        (not cmssf.freeze_image, "cmssf.cached_views", "cmssf.freeze_image is off"),
        (
            cmssf.freeze_image and not cmssf.cached_views,
            "cmssf.views.",
            "the image encoder is frozen, and cmssf.cached_views is 0",
        ),
        (not cmssf.image_loss, "cmssf.image_weight", "there is no cmssf.image_loss"),
        (fusion.rule != "bilinear", "fusion.rank", "fusion.rule is not bilinear"),
        (
            "sound" not in fusion.modalities,
            "fusion.samples fusion.mels",
            "fusion.modalities has no sound",
        ),
        ("text" not in fusion.modalities, "fusion.max_length", "fusion.modalities has no text"),
        (fusion.kind != "coattention", "fusion.norm_first", "only co-attention has that"),
        (
            fusion.kind not in ("feature", "coattention"),
            "fusion.hidden",
            "only feature fusion and co-attention have that",
        ),
        (
            chosen.supervised.loss != "supcon",
            "supervised.hidden supervised.dim supervised.temperature",
            "supervised.loss is not supcon",
        ),
        (
            chosen.dino.local_crops == 0,
            "dino.local_size dino.local_views.",
            "dino.local_crops is 0",
        ),
    )
    return {name: why for case, names, why in cases if case for name in names.split()}


def check_given(given: list[str], chosen: Preset, method: str) -> list[str]:
    """Refuse settings of the data that somebody gave and that cannot act, and name all others.

    A setting of the data that cannot act means other data than those that would be trained on.

    Args:
        given: Their names, such as "data.flavour".
        chosen: The preset with these settings.
        method: The method to be trained.

    Returns:
        A sentence for each other setting that cannot act.

    Raises:
        ValueError: If a setting of the data cannot act, or two settings name different sizes of
            the pictures.
    """
    told = [
        f"--{name} would change nothing: {why}"
        for start, why in idle(chosen, method).items()
        for name in given
        if name == start or (start.endswith(".") and name.startswith(start))
    ]
    if about_data := [sentence for sentence in told if sentence.startswith("--data.")]:
        raise ValueError(about_data[0])
    size = chosen.data.image_size
    name, reads = "vision.image_size", (chosen.vision.image_size,) * 2
    if method == "fusion":
        name, reads = "fusion.image_size", chosen.fusion.image_size
    if chosen.data.name != "cifar10" and reads != (size, size):
        raise ValueError(
            f"data.image_size={size} and {name}={' '.join(map(str, sorted({*reads})))} differ, so "
            "every picture would be resized twice: give both the same size"
        )
    return told
