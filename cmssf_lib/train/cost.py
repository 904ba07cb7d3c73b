"""The cost of a training in operations, and a cache for the features of a frozen encoder."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from cmssf_lib.data import Batch, ImageTextData
from cmssf_lib.data.picture_cache import from_cache, to_cache
from cmssf_lib.machine import hide_bars, step_seed
from cmssf_lib.methods import CMSSF
from cmssf_lib.methods.base import on_fastest_device
from cmssf_lib.views import as_float

FORMAT = "cmssf-features-1"
AT_ONCE = 500  # pictures encoded together


def flops_per_picture(method: nn.Module, batch: Batch) -> float:
    """Count the floating-point operations of a training step, forward and backward, per picture.

    Everything that the step computes is included: both views, teachers, heads, decoders, texts.
    Only matrix products, convolutions and attention are counted, with a multiplication and an
    addition as two operations; norms, activations and the optimizer are not. The number is the
    same on every machine.

    Args:
        method: Not changed; a copy takes the step.
        batch: Of the size used in training, since a caption that several pictures share is encoded
            only once.
    """
    twin = copy.deepcopy(method).train()
    twin.zero_grad()
    devices = [batch.images.device] if batch.images.is_cuda else []
    # Attention as plain matrix products: the counter does not know all fast kernels, and CPU and
    # GPU have different ones.
    plain = sdpa_kernel(SDPBackend.MATH)
    counter = FlopCounterMode(display=False)
    with torch.random.fork_rng(devices), plain, counter:
        twin(batch)["loss"].backward()
    return float(counter.get_total_flops() / len(batch))


@torch.no_grad()
def cache_features(
    method: CMSSF,
    data: ImageTextData,
    *,
    views: int = 0,
    seed: int = 0,
    say: Callable[[str], None] = print,
    keep: bool = True,
    progress: bool = True,
) -> ImageTextData:
    """Encode every picture once, for a model whose image encoder is frozen.

    `CMSSF.loss` then only projects the features, and each step draws one of a picture's cached
    views. An epoch then costs only the heads and the text encoder ("locked-image tuning", Zhai et
    al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning").

    The features are stored in the cache (``$CMSSF_CACHE``, by default ``~/.cache/cmssf``) and
    read from there for the same encoder and the same pictures.

    Args:
        method: With a frozen image encoder (``CMSSFConfig.freeze_image``).
        data: The pictures.
        views: Number of random views of each picture, drawn by ``method.views``; 0 encodes the
            picture itself. With few views the heads overfit to them; many take memory.
        seed: Of the views.
        say: Called with a sentence on the size of the features, before they are computed.
        keep: Whether to use the cache on disk.
        progress: Show a progress bar if there is a terminal.

    Returns:
        The data with its ``features``, ``(n, max(1, views), width)``.

    Raises:
        ValueError: If the image encoder is not frozen, or ``views`` is negative.
    """
    encoder = method.image_encoder
    if any(p.requires_grad for p in encoder.parameters()):
        raise ValueError(
            "the image encoder is not frozen, so its features change with every step: set "
            "freeze_image=True, or train without the cache"
        )
    if views < 0:
        raise ValueError(f"views is {views}; give 0 or more")
    needed = len(data) * max(1, views) * encoder.width * 4
    what = f"in {views} random views each" if views else "as they are"
    said = f"features of {len(data):,} pictures, {what}: {needed / 1e6:,.0f} MB"
    name = f"features-{_key(method, data, views, seed)}.safetensors"
    if keep and (kept := from_cache(name, FORMAT)[0]):
        say(f"{said}, read from {name} in the cache")
        return replace(data, features=kept["features"].to(data.images.device))
    say(f"{said}, to be kept in {name} in the cache" if keep else f"{said}, in memory")
    features = _encode(method, data, views, seed, progress)
    if keep:
        to_cache(name, {"features": features}, {"format": FORMAT})
    return replace(data, features=features.to(data.images.device))


def _encode(
    method: CMSSF, data: ImageTextData, views: int, seed: int, progress: bool
) -> Float[Tensor, "n views length"]:
    """Encode all pictures, one view of all of them after another."""
    shape = (len(data), max(1, views), method.image_encoder.width)
    features = torch.empty(shape, dtype=torch.float32)
    method.image_encoder.eval()
    starts = [(v, i) for v in range(max(1, views)) for i in range(0, len(data), AT_ONCE)]
    with torch.random.fork_rng([]), on_fastest_device(method) as device:
        for view, start in tqdm(starts, "encoding", leave=False, disable=hide_bars(not progress)):
            images = data.images[start : start + AT_ONCE].to(device)
            torch.manual_seed(step_seed(seed, 2, view, start))
            shown = method.views(images) if views else as_float(images)
            features[start : start + AT_ONCE, view] = method.features(shown).float().cpu()
    return features


def _key(method: CMSSF, data: ImageTextData, views: int, seed: int) -> str:
    """Return a hash of the weights, the pictures and the views, as 16 hexadecimal digits."""
    digest = hashlib.sha256(f"{data.fingerprint} {views}".encode())
    if views:
        digest.update(f"{seed} {sorted(asdict(method.config.views).items())}".encode())
    digest.update(repr(method.image_encoder.config).encode())
    for name, value in sorted(method.image_encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
