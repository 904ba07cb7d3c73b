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
    data, judge, cmssf, fusion = chosen.data, chosen.judge, chosen.cmssf, chosen.fusion
    scenes, plain = data.name == "digit_scenes", data.name == "plain_folder"
    timm, scratch = chosen.vision.kind == "timm", chosen.text.kind == "scratch"
    stem, captions = chosen.vision.kind.startswith("conv_stem"), method == "cmssf"
    choosing = not captions or bool(judge.fractions)  # of labelled pictures
    tuned = (judge.fine_tune or method == "mae") and choosing and not plain
    frozen = cmssf.freeze_image and not cmssf.cached_views
    hides = fusion.kind in ("feature", "coattention")
    alone, no_crops = chosen.supervised.loss != "supcon", chosen.dino.local_crops == 0
    sizes = "width depth heads"
    trains = "batch_size lr text_lr weight_decay optimizer schedule warmup clip precision"
    # Section → rows: whether it is so, then which of its settings are idle ("": all), and why.
    cases: dict[str, list[tuple[bool, str, str]]] = {
        "data": [
            (not scenes, "flavour train sound_noise", "only digit scenes have that"),
            (not scenes and not plain, "test", "these data have a test set of their own"),
            (data.name == "cifar10", "image_size", "the pictures of CIFAR-10 have 32 pixels"),
            (scenes, "path", "digit scenes are drawn, not read"),
            (data.sound == "none", "sound_noise", "there is no sound"),
        ],
        "vision": [
            (not timm, "timm_name", "vision.kind is not timm"),
            (timm, f"patch_size {sizes}", "the model of timm decides that"),
            (not stem, "norm halve", "only a convolutional stem has that"),
        ],
        "text": [
            (scratch, "name", "text.kind is scratch"),
            (not scratch, f"{sizes} max_length dropout", "the pretrained model decides that"),
        ],
        "train": [
            (not chosen.train.epochs, f"{trains} checkpoint_minutes", "train.epochs is 0"),
            (not captions, "text_lr", "only cmssf has a text tower"),
        ],
        "judge": [
            (plain and not captions, "", "without classes, nothing is measured with labels"),
            (not choosing, "per_class draws pixels fine_tune", "judge.fractions is empty"),
            (method == "mae", "fine_tune", "a masked autoencoder is always fine-tuned"),
        ],
        "fine_tune": [
            (not tuned, "", "judge.fine_tune is off, or there are no labels"),
            (not chosen.fine_tune.steps, "batch_size lr baseline views.", "fine_tune.steps is 0"),
        ],
        "cmssf": [
            (cmssf.depth == 0, "hidden head_norm", "cmssf.depth is 0"),
            (not cmssf.freeze_image, "cached_views", "cmssf.freeze_image is off"),
            (frozen, "views.", "the image encoder is frozen, and cmssf.cached_views is 0"),
            (not cmssf.image_loss, "image_weight", "there is no cmssf.image_loss"),
        ],
        "fusion": [
            (fusion.rule != "bilinear", "rank", "fusion.rule is not bilinear"),
            ("sound" not in fusion.modalities, "samples mels", "fusion.modalities has no sound"),
            ("text" not in fusion.modalities, "max_length", "fusion.modalities has no text"),
            (fusion.kind != "coattention", "norm_first", "only co-attention has that"),
            (not hides, "hidden", "only feature fusion and co-attention have that"),
        ],
        "supervised": [(alone, "hidden dim temperature", "supervised.loss is not supcon")],
        "dino": [(no_crops, "local_size local_views.", "dino.local_crops is 0")],
    }
    return {
        f"{section}.{name}": why
        for section, rows in cases.items()
        for case, names, why in rows
        if case
        for name in names.split(" ")
    }


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
    two = chosen.data.name == "digit_scenes" and chosen.data.flavour == "two"  # side by side
    drawn = (size, 2 * size if two else size)
    name, reads = "vision.image_size", (chosen.vision.image_size,) * 2
    if method == "fusion":
        name, reads = "fusion.image_size", chosen.fusion.image_size
    if chosen.data.name != "cifar10" and reads != drawn:
        same = f"only fusion reads {size}x{2 * size}" if two else "give both the same size"
        same = f"give {name} {size} {2 * size}" if two and method == "fusion" else same
        raise ValueError(
            f"data.image_size={size} and {name}={' '.join(map(str, dict.fromkeys(reads)))} differ, "
            f"so every picture would be resized twice: {same}"
        )
    return told
