"""Settings for tests: the library's dataclasses, with values where a test does not care.

The library itself has no such defaults: every value that decides a result stands in a preset.
"""

from functools import partial

from cmssf_lib import data, encoders, evaluate, fusion, methods, train
from cmssf_lib.encoders import ImageEncoder, TextEncoder
from cmssf_lib.methods import CMSSF
from cmssf_lib.views import ViewsConfig

DataConfig = partial(
    data.DataConfig,
    name="digit_scenes",
    flavour="colour",
    text="caption",
    sound="none",
    pixel_noise=0.0,
    sound_noise=0.3,
    train=4000,
    test=1000,
    validation=500,
    image_size=16,
    seed=0,
)
TrainConfig = partial(
    train.TrainConfig,
    epochs=10,
    batch_size=128,
    lr=1e-3,
    text_lr=0.1,
    weight_decay=0.05,
    optimizer="adamw",
    schedule="cosine",
    warmup=0.1,
    clip=1.0,
)
VisionConfig = partial(
    encoders.VisionConfig,
    kind="conv_stem",
    image_size=32,
    patch_size=4,
    width=128,
    depth=2,
    heads=4,
    norm="batch",
    halve="stride",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)
TextConfig = partial(
    encoders.TextConfig, kind="scratch", width=64, depth=2, heads=4, max_length=16, dropout=0.0
)
CMSSFConfig = partial(
    methods.CMSSFConfig,
    dim=256,
    hidden=256,
    depth=1,
    head_norm=False,
    loss="one_hot",
    temperature=0.07,
    views=ViewsConfig(),
)
FusionConfig = partial(
    fusion.FusionConfig,
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
)
SimCLRConfig = partial(
    methods.SimCLRConfig, hidden=128, dim=64, temperature=0.2, views=ViewsConfig()
)
MoCoConfig = partial(
    methods.MoCoConfig,
    hidden=128,
    dim=64,
    temperature=0.2,
    queue=2048,
    in_batch=False,
    momentum=0.99,
    views=ViewsConfig(),
)
BYOLConfig = partial(methods.BYOLConfig, hidden=128, dim=64, momentum=0.99, views=ViewsConfig())
VICRegConfig = partial(
    methods.VICRegConfig,
    hidden=128,
    dim=64,
    invariance=25.0,
    variance=25.0,
    covariance=1.0,
    views=ViewsConfig(),
)
DINOConfig = partial(
    methods.DINOConfig,
    hidden=128,
    head_norm=False,
    bottleneck=64,
    prototypes=256,
    student_temperature=0.1,
    teacher_temperature=0.04,
    centre_momentum=0.9,
    momentum=0.99,
    freeze_last=0.05,
    local_crops=2,
    local_size=8,
    views=ViewsConfig(),
    local_views=ViewsConfig(),
)
MAEConfig = partial(
    methods.MAEConfig,
    mask_ratio=0.75,
    width=48,
    depth=1,
    heads=4,
    normalise=True,
    views=ViewsConfig(),
)
SupervisedConfig = partial(
    methods.SupervisedConfig,
    loss="cross_entropy",
    hidden=128,
    dim=64,
    temperature=0.1,
    views=ViewsConfig(),
)
JudgeConfig = partial(
    evaluate.JudgeConfig, per_class=10, fractions=(), draws=3, fine_tune=False, pixels=False
)
FineTuneConfig = partial(
    evaluate.FineTuneConfig,
    steps=600,
    batch_size=50,
    lr=3e-3,
    baseline=True,
    views=ViewsConfig(),
)


def new_cmssf(vision, text, config, captions=(), folder=None, image_task=None):
    """Build a CMSSF from the settings of its towers; with a task, around that one's encoder."""
    encoder = ImageEncoder(vision) if image_task is None else image_task.image_encoder
    return CMSSF(encoder, TextEncoder(text, captions, folder), config, image_task)
