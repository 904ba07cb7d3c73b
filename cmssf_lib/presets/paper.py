"""Paper: the source chapter's own set-up (sections 3.3 and 3.4), for a GPU.

The other methods have what `standard` gives them, for as many epochs as the published comparisons
on CIFAR-10 take.
"""

from dataclasses import replace

from cmssf_lib.data import DataConfig
from cmssf_lib.encoders import TextConfig, VisionConfig
from cmssf_lib.evaluate import FineTuneConfig, JudgeConfig
from cmssf_lib.methods import CMSSFConfig
from cmssf_lib.presets import standard
from cmssf_lib.presets.preset import Preset
from cmssf_lib.presets.standard import STANDARD
from cmssf_lib.train import TrainConfig
from cmssf_lib.views import ViewsConfig

_BESIDE = replace(
    STANDARD,
    name="paper",
    minutes="hours on one GPU, days without one",
    # In a long training the teachers are as slow as the papers have them, and DINO's student sees
    # small views as well.
    byol=replace(STANDARD.byol, momentum=0.996),
    dino=replace(STANDARD.dino, momentum=0.996, local_crops=4),
)

PAPER = replace(
    _BESIDE,
    data=DataConfig(
        name="cifar10",
        flavour="colour",
        text="caption",
        sound="none",
        pixel_noise=0.0,
        sound_noise=0.3,
        train=4000,
        test=1000,
        validation=5000,
        image_size=32,
        seed=0,
    ),
    vision=VisionConfig(
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
    text=TextConfig(kind="scratch", width=256, depth=4, heads=4, max_length=16, dropout=0.0),
    train=TrainConfig(
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
    judge=JudgeConfig(per_class=10, fractions=(), draws=3, fine_tune=False, pixels=False),
    fine_tune=FineTuneConfig(steps=600, batch_size=50, lr=3e-3, baseline=True, views=ViewsConfig()),
    cmssf=CMSSFConfig(
        dim=256,
        hidden=384,
        depth=1,
        head_norm=False,
        loss="one_hot",
        temperature=0.07,
        views=ViewsConfig(area=(0.6, 1.0), flip=0.5),
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
