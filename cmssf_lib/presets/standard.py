"""Standard: CIFAR-10, a small vision transformer with a convolutional stem.

Minutes on one GPU, one to three hours on two CPU cores. Every method gets the same number of
floating-point operations (to within ±3 %; teachers, heads and decoders count). The book's
status page says which values were tried. Where a trial decided a value, its result, on held-out
training pictures, stands beside it.
"""

from dataclasses import replace

from cmssf_lib import data, encoders, evaluate, fusion, methods, train, views
from cmssf_lib.presets.preset import Preset

VIEWS = views.ViewsConfig(
    area=(0.2, 1.0),
    ratio=(0.75, 1.33),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter=0.8,
    grey=0.2,
)
MILD_VIEWS = views.ViewsConfig(shift=0.0625, flip=0.5)

STANDARD = Preset(
    name="standard",
    minutes="minutes on one GPU, one to three hours on two CPU cores",
    data=data.DataConfig(
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
    vision=encoders.VisionConfig(
        kind="conv_stem",
        image_size=32,
        patch_size=4,
        width=128,
        depth=2,
        heads=4,
        norm="batch",
        halve="pool",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    text=encoders.TextConfig(
        kind="scratch", width=64, depth=2, heads=4, max_length=16, dropout=0.0
    ),
    # Held-out accuracy after twelve epochs: 85.3 % with AdamW, 87.5 % with Muon. With AdamW and a
    # stem with shortcuts 84.8 %, with shortcuts and one more convolution 86.9 %.
    train=train.TrainConfig(
        epochs=27,
        batch_size=128,
        lr=3e-3,
        text_lr=0.1,
        weight_decay=0.05,
        optimizer="muon",
        schedule="cosine",
        warmup=0.1,
        clip=1.0,
    ),
    judge=evaluate.JudgeConfig(
        per_class=0, fractions=(0.01, 0.1, 1.0), draws=3, fine_tune=True, pixels=False
    ),
    # 390 steps of 128 pictures: one epoch of all training pictures, ten epochs of a tenth of them.
    fine_tune=evaluate.FineTuneConfig(
        steps=390, batch_size=128, lr=1e-3, baseline=False, views=MILD_VIEWS
    ),
    cmssf=methods.CMSSFConfig(
        dim=256,
        hidden=256,
        depth=1,
        # Accuracy after four epochs on half of the training pictures (with the stem that strides):
        # 67.4 % with this norm, 63.5 % without.
        head_norm=True,
        loss="one_hot",
        temperature=0.07,
        views=MILD_VIEWS,
    ),
    fusion=fusion.FusionConfig(
        kind="feature",
        rule="concat",
        modalities=("image", "text"),
        image_size=(32, 32),
        patch_size=4,
        width=128,
        depth=2,
        heads=4,
        rank=48,
        norm_first=True,
        hidden=96,
        max_length=12,
        samples=800,
        mels=16,
        modality_dropout=0.0,
    ),
    simclr=methods.SimCLRConfig(hidden=256, dim=128, temperature=0.2, views=VIEWS),
    moco=methods.MoCoConfig(
        hidden=256,
        dim=128,
        temperature=0.2,
        queue=4096,
        in_batch=False,
        momentum=0.99,
        views=VIEWS,
    ),
    # kNN accuracy rose from 51.5 % to 53.3 % with a faster target (0.95, not 0.99) and stronger
    # views; to 57 % with a batch of 128 or with wider heads; with both and more weight decay to
    # 57.8 % at momentum 0.98 and 59.7 % at 0.96.
    byol=methods.BYOLConfig(hidden=1024, dim=256, momentum=0.96, views=VIEWS),
    # kNN accuracy rose from 54.4 % to 58.0 % with a faster teacher (0.98, not 0.996) and more
    # weight decay. Earlier it was 52.3 % after five epochs of Muon, 49.6 % after eight of AdamW.
    dino=methods.DINOConfig(
        hidden=512,
        head_norm=True,
        bottleneck=64,
        prototypes=1024,
        student_temperature=0.1,
        teacher_temperature=0.04,
        centre_momentum=0.9,
        momentum=0.98,
        freeze_last=0.05,
        local_crops=0,  # in so short a training, local crops cost more steps than they are worth
        local_size=16,
        views=VIEWS,
        local_views=replace(VIEWS, area=(0.05, 0.4)),
    ),
    vicreg=methods.VICRegConfig(
        hidden=512, dim=512, invariance=25.0, variance=25.0, covariance=1.0, views=VIEWS
    ),
    mae=methods.MAEConfig(
        mask_ratio=0.75,
        width=96,
        depth=2,
        heads=4,
        normalise=True,
        views=views.ViewsConfig(area=(0.4, 1.0), flip=0.5),
    ),
    supervised=methods.SupervisedConfig(
        loss="cross_entropy", hidden=128, dim=64, temperature=0.1, views=MILD_VIEWS
    ),
)

# --- what the other methods change ---

_TRAIN = STANDARD.train

METHODS: dict[str, Preset] = {
    method: replace(STANDARD, train=train)
    for method, train in {
        "simclr": replace(_TRAIN, epochs=13, batch_size=128, lr=2e-3),
        "moco": replace(_TRAIN, epochs=20, batch_size=128, lr=2e-3),
        "byol": replace(_TRAIN, epochs=10, batch_size=128, lr=1.4e-3, weight_decay=0.3),
        "dino": replace(_TRAIN, epochs=10, batch_size=64, lr=1e-3, weight_decay=0.3),
        "vicreg": replace(_TRAIN, epochs=13, batch_size=128, lr=2e-3),
        "mae": replace(_TRAIN, epochs=73, batch_size=256, lr=1e-3),
        "supervised": replace(_TRAIN, epochs=27, batch_size=128, lr=3e-3),
    }.items()
} | {
    "fusion": replace(
        STANDARD,
        data=replace(STANDARD.data, text="clue"),
        train=replace(_TRAIN, epochs=4, lr=1e-3, text_lr=1.0, optimizer="adamw"),
    ),
}
