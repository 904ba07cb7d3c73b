"""Quick: digit scenes that the library draws itself, seconds to a minute a run on two CPU cores.

The values were chosen in trials on a held-out quarter of the *training* digits. The book's status
page names the exceptions. Where a trial decided a value, its result stands beside it.
"""

from dataclasses import replace

from cmssf_lib import data, encoders, evaluate, fusion, methods, train, views
from cmssf_lib.presets.preset import Preset

# Without labels the views decide what is learned: features become invariant to what views change.
# Methods with negatives learn more from views that differ more. Methods that only pull views
# together lose what the views do not share, and need milder ones.
VIEWS = views.ViewsConfig(area=(0.56, 1.7), ratio=(0.77, 1.3), turn=0.35, shear=0.25, shift=0.1)
FAR_VIEWS = replace(VIEWS, shift=0.2)
NEAR_VIEWS = views.ViewsConfig(
    area=(0.8, 1.25), ratio=(0.87, 1.15), turn=0.2, shear=0.15, shift=0.1
)

QUICK = Preset(
    name="quick",
    minutes="one to two minutes on two CPU cores",
    data=data.DataConfig(
        name="digit_scenes",
        flavour="colour",
        text="caption",
        sound="none",
        pixel_noise=0.0,
        sound_noise=0.3,
        train=6500,
        test=1000,
        validation=500,
        image_size=16,
        # Not 0: the settings were chosen while looking at the test scenes of seed 0, so results
        # are reported on other scenes.
        seed=1,
    ),
    vision=encoders.VisionConfig(
        kind="conv_stem",
        image_size=16,
        patch_size=4,
        width=64,
        depth=2,
        heads=4,
        norm="batch",
        halve="stride",
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    ),
    text=encoders.TextConfig(
        kind="scratch", width=64, depth=2, heads=4, max_length=16, dropout=0.0
    ),
    train=train.TrainConfig(
        epochs=22,
        batch_size=128,
        lr=3e-3,
        text_lr=0.01,
        weight_decay=0.05,
        optimizer="adamw",
        schedule="cosine",
        warmup=0.1,
        clip=1.0,
    ),
    judge=evaluate.JudgeConfig(per_class=10, fractions=(), draws=3, fine_tune=False, pixels=False),
    fine_tune=evaluate.FineTuneConfig(
        steps=600, batch_size=50, lr=3e-3, baseline=True, views=views.ViewsConfig()
    ),
    cmssf=methods.CMSSFConfig(
        dim=256,
        hidden=256,
        depth=1,
        head_norm=False,
        loss="one_hot",
        temperature=0.07,
        views=views.ViewsConfig(shift=0.0625),
    ),
    fusion=fusion.FusionConfig(
        kind="feature",
        rule="concat",
        modalities=("image", "text", "sound"),
        image_size=(16, 16),
        patch_size=4,
        width=48,
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
    simclr=methods.SimCLRConfig(hidden=128, dim=64, temperature=0.2, views=FAR_VIEWS),
    moco=methods.MoCoConfig(
        hidden=128,
        dim=64,
        temperature=0.2,
        queue=128,
        in_batch=True,
        momentum=0.9,
        views=FAR_VIEWS,
    ),
    byol=methods.BYOLConfig(hidden=256, dim=64, momentum=0.9, views=NEAR_VIEWS),
    dino=methods.DINOConfig(
        hidden=128,
        head_norm=True,
        bottleneck=64,
        prototypes=256,
        student_temperature=0.1,
        teacher_temperature=0.07,
        centre_momentum=0.9,
        momentum=0.9,
        freeze_last=0.05,
        local_crops=0,
        local_size=8,
        views=NEAR_VIEWS,
        local_views=replace(NEAR_VIEWS, area=(0.5, 1.0)),
    ),
    vicreg=methods.VICRegConfig(
        hidden=256, dim=256, invariance=25.0, variance=25.0, covariance=1.0, views=FAR_VIEWS
    ),
    # Plain pixels: on a black background the brightness of a patch tells how much of a stroke it
    # holds. In the trials plain pixels gained 7 points, normalised ones 2.
    mae=methods.MAEConfig(mask_ratio=0.5, width=48, depth=1, heads=4, normalise=False, views=VIEWS),
    supervised=methods.SupervisedConfig(
        loss="cross_entropy", hidden=128, dim=64, temperature=0.1, views=VIEWS
    ),
)

# --- what the other methods change ---

_ALONE = replace(
    QUICK,
    minutes="about a minute a training on two CPU cores",
    data=replace(QUICK.data, flavour="plain", train=4500),
    vision=replace(QUICK.vision, depth=1),
    fine_tune=replace(QUICK.fine_tune, views=NEAR_VIEWS),
)
_TRAIN = replace(QUICK.train, text_lr=0.1)

METHODS: dict[str, Preset] = {
    "simclr": replace(
        _ALONE, train=replace(_TRAIN, epochs=18, batch_size=128, lr=3e-3, weight_decay=0.3)
    ),
    "moco": replace(
        _ALONE, train=replace(_TRAIN, epochs=25, batch_size=64, lr=3e-3, weight_decay=0.3)
    ),
    "byol": replace(
        _ALONE, train=replace(_TRAIN, epochs=16, batch_size=64, lr=3e-3, weight_decay=0.3)
    ),
    "dino": replace(
        _ALONE, train=replace(_TRAIN, epochs=13, batch_size=32, lr=2e-3, weight_decay=0.5)
    ),
    "vicreg": replace(
        _ALONE, train=replace(_TRAIN, epochs=18, batch_size=128, lr=3e-3, weight_decay=0.3)
    ),
    # Pre-training helps most where training from scratch is hardest, that is, a deep encoder with
    # a hundred labels: in trials of 40 epochs with one fine-tuning recipe, MAE gained 6 points
    # with one block and 11 with four.
    "mae": replace(
        _ALONE,
        vision=replace(QUICK.vision, depth=4),
        train=replace(_TRAIN, epochs=22, batch_size=64, lr=3e-3),
    ),
    "supervised": replace(
        _ALONE, train=replace(_TRAIN, epochs=18, batch_size=128, lr=3e-3, weight_decay=0.3)
    ),
    "fusion": replace(
        QUICK,
        minutes="about a minute a model on two CPU cores",
        data=replace(
            QUICK.data,
            flavour="plain",
            text="clue",
            sound="same",
            pixel_noise=0.4,
            sound_noise=2.0,
            train=15_500,
            test=2000,
            seed=3,  # not 1: these settings, too, were chosen on scenes of another seed
        ),
        train=replace(_TRAIN, epochs=6, batch_size=128, lr=3e-3, text_lr=1.0, clip=0.0),
    ),
}
