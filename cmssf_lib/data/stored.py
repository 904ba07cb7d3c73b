"""Pictures that stay on disk and are decoded when they are needed, ahead of the training step."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

#: Threads that decode ahead, a batch each. One thread of Python's rarely keeps more than four busy.
READERS = min(4, os.cpu_count() or 1)
CPU = torch.device("cpu")
Rows = Int64[Tensor, " _"]


@dataclass(frozen=True, eq=False)
class StoredPictures:
    """Pictures on disk, which `ImageTextData` takes in place of a tensor (n, 3, height, width).

    ``len``, ``shape``, ``device``, indices, slices and ``split`` are as those of a tensor; what is
    asked for is decoded at that moment, and nothing is kept.

    Args:
        read: Decodes the pictures of these rows of the store; several threads call it.
        digest: Returns some text that changes when a picture of the store does.
        rows: The rows of the store that belong to these pictures, in their order.
        size: Height and width.
        device: Where the decoded pictures go.
    """

    read: Callable[[list[int]], UInt8[np.ndarray, "b 3 height width"]]
    digest: Callable[[], str]
    rows: Int64[Tensor, " n"]
    size: tuple[int, int]
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | slice | Int64[Tensor, " b"]) -> UInt8[Tensor, "..."]:
        chosen = self.rows[which.cpu() if isinstance(which, Tensor) else which]
        found = torch.from_numpy(self.read(chosen.flatten().tolist())).to(self.device)
        return found.view(*chosen.shape, *self.shape[1:])

    @property
    def shape(self) -> torch.Size:
        """The shape that a tensor of all pictures would have."""
        return torch.Size((len(self), 3, *self.size))

    @property
    def identity(self) -> str:
        """What changes when one of these pictures, or their order, does."""
        return f"{self.digest()} {hashlib.sha256(self.rows.numpy().data).hexdigest()}"

    def index_select(self, dim: int, rows: Rows) -> UInt8[Tensor, "b 3 height width"]:
        """Return some pictures; ``dim`` is 0."""
        return self[rows]

    def only(self, rows: Int64[Tensor, " m"]) -> "StoredPictures":
        """Return a part of the pictures, still on disk."""
        return replace(self, rows=self.rows[rows.cpu()])

    def to(self, device: torch.device | str) -> "StoredPictures":
        """Return the same pictures, to be decoded for another device."""
        return replace(self, device=torch.device(device))

    def split(self, size: int) -> Iterator[UInt8[Tensor, "b 3 height width"]]:
        """Iterate over all pictures, ``size`` at a time."""
        parts = torch.arange(len(self)).split(size)
        return (pictures for _, pictures in in_turn(self, parts) if pictures is not None)


def in_turn(
    images: UInt8[Tensor, "n 3 height width"] | StoredPictures, parts: Sequence[Rows]
) -> Iterator[tuple[Rows, UInt8[Tensor, "b 3 height width"] | None]]:
    """Iterate over parts of a set of pictures; those in memory are left to the caller.

    From disk the next parts are decoded while one is in use. The threads leave PyTorch alone: it
    would give each a team of threads of its own, and work on a GPU would disturb a step's capture.
    """
    if isinstance(images, Tensor):
        yield from ((rows, None) for rows in parts)
        return
    pool, coming = ThreadPoolExecutor(READERS), deque[Future[np.ndarray]]()
    begun = iter(parts)
    try:
        for rows in parts:
            for later in islice(begun, 1 + READERS - len(coming)):
                coming.append(pool.submit(images.read, images.rows[later].tolist()))
            yield rows, torch.from_numpy(coming.popleft().result()).to(images.device)
    finally:  # nobody may want the rest
        pool.shutdown(cancel_futures=True)
