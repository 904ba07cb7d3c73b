"""What both sides are given: the same pictures, and equal augmentations as lightly makes them."""

import os
from functools import cache

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

from cmssf_lib.data import DataConfig, ImageTextData, load
from cmssf_lib.presets import Preset, preset
from cmssf_lib.views import ViewsConfig


def pictures(chosen: Preset, count: int) -> tuple[ImageTextData, str]:
    """Return some pictures of a preset's training data, and what they are.

    At even distances, because an image folder begins with one class only.

    The times do not depend on what is seen. So where CIFAR-10 is not at hand it is not
    downloaded: random pictures of its shape take its place.
    """
    if chosen.data.name != "cifar10" or os.environ.get("CMSSF_DATA"):
        data = training_set(chosen.data)
        if len(data) < count:
            raise ValueError(f"{data.name} holds {len(data)} pictures; {count} are needed")
        return data.subset(torch.arange(count) * (len(data) // count)), data.name
    generator = torch.Generator().manual_seed(0)
    side = chosen.data.image_size
    labels = torch.arange(count) % 10
    names = tuple(f"class {i}" for i in range(10))
    data = ImageTextData(
        torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8),
        labels,
        tuple(names[label] for label in labels.tolist()),
        names,
        "random pictures",
    )
    return data, "random pictures, because CMSSF_DATA is not set"


@cache
def training_set(config: DataConfig) -> ImageTextData:
    """Read a training set once, however many benchmarks ask for it."""
    return load(config).train


def photo_views() -> ViewsConfig:
    """Return SimCLR's views of photographs, which both libraries can make.

    Those of the quick preset turn, lean and zoom out, which lightly's SimCLR does not.
    """
    return preset("standard", "simclr").simclr.views


def lightlys_transform(views: ViewsConfig, size: int) -> SimCLRTransform:
    """Return lightly's two views of a picture with the settings of ours.

    No blur, as the paper has it for pictures of 32 pixels, and no normalisation: that is part of
    our encoder, which both sides use.
    """
    other = views.turn or views.shear or views.shift or views.solarise or views.area[1] > 1
    if other:
        raise ValueError(f"lightly's SimCLR has no such views: {views}")
    transform = SimCLRTransform(
        input_size=size,
        cj_prob=views.jitter,
        cj_strength=1.0,
        cj_bright=views.brightness,
        cj_contrast=views.contrast,
        cj_sat=views.saturation,
        cj_hue=views.hue,
        min_scale=views.area[0],
        random_gray_scale=views.grey,
        gaussian_blur=0.0,
        hf_prob=views.flip,
        normalize=None,
    )
    crop = transform.transforms[0].transform.transforms[0]  # both views share one
    crop.scale, crop.ratio = views.area, views.ratio  # lightly passes only the smallest area on
    return transform


class PILPictures(torch.utils.data.Dataset):
    """Pictures as torchvision's CIFAR-10 gives them: from an array in memory, as PIL images."""

    def __init__(self, data: ImageTextData, transform: SimCLRTransform) -> None:
        self.arrays = np.ascontiguousarray(data.images.permute(0, 2, 3, 1).numpy())
        self.labels = data.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, i: int) -> tuple[list[torch.Tensor], int]:
        return self.transform(Image.fromarray(self.arrays[i])), self.labels[i]


def lightlys_loader(
    data: ImageTextData, views: ViewsConfig, batch_size: int
) -> torch.utils.data.DataLoader:
    """Return lightly's way to batches: PyTorch's loader with two workers that stay."""
    return torch.utils.data.DataLoader(
        PILPictures(data, lightlys_transform(views, data.images.shape[-1])),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )
