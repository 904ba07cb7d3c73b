"""Paper: the source chapter's own set-up (sections 3.3 and 3.4), for a GPU.

The other methods keep their `standard` settings and train for as many epochs as the published
comparisons on CIFAR-10.
"""

from dataclasses import replace

from cmssf_lib import encoders, evaluate, methods, train, views
from cmssf_lib.presets import standard
from cmssf_lib.presets.preset import Preset
from cmssf_lib.presets.standard import STANDARD

_BESIDE = replace(
    STANDARD,
    name="paper",
    minutes="hours on one GPU, days without one",
    # In a long training the teachers can be as slow as in the papers, and local crops pay off.
    byol=replace(STANDARD.byol, momentum=0.996),
    dino=replace(STANDARD.dino, momentum=0.996, local_crops=4),
)

PAPER = replace(
    _BESIDE,
    vision=encoders.VisionConfig(
        kind="timm",
        image_size=224,
        patch_size=16,
        width=384,
        depth=12,
        heads=6,
        norm="batch",
        halve="stride",
        timm_name="vit_small_patch16_224.dino",
        weights="timm",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    text=encoders.TextConfig(
        kind="scratch", width=256, depth=4, heads=4, max_length=16, dropout=0.0
    ),
    train=train.TrainConfig(
        epochs=100,
        batch_size=128,
        lr=1e-4,
        text_lr=1.0,
        weight_decay=0.0,
        optimizer="adam",
        schedule="constant",
        warmup=0.0,
        clip=0.0,
    ),
    judge=evaluate.JudgeConfig(per_class=10, fractions=(), draws=3, fine_tune=False, pixels=False),
    fine_tune=evaluate.FineTuneConfig(
        steps=600, batch_size=50, lr=3e-3, baseline=True, views=views.ViewsConfig()
    ),
    cmssf=methods.CMSSFConfig(
        dim=256,
        hidden=384,
        depth=1,
        head_norm=False,
        loss="one_hot",
        temperature=0.07,
        views=views.ViewsConfig(area=(0.6, 1.0), flip=0.5),
    ),
)

METHODS: dict[str, Preset] = {
    method: replace(
        _BESIDE,
        data=own.data,
        train=replace(own.train, epochs=own.train.epochs if method == "fusion" else 200),
    )
    for method, own in standard.METHODS.items()
}
