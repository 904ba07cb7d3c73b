"""Search among pictures that are stored as vectors of a model's shared space."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmssf_lib.evaluate import embed_texts
from cmssf_lib.evaluate.neighbours import BLOCK, require_rows
from cmssf_lib.files import home, read_tensors, write_tensors
from cmssf_lib.methods import CMSSF
from cmssf_lib.share.hub import fingerprint

FORMAT = "cmssf-index-1"
NAME = "index.safetensors"
#: Similarities are rounded to steps of 2⁻²⁴ = 6e-8, the precision of the vectors themselves.
STEPS = 2**24


def nearest(
    queries: Float[Tensor, "q dim"], vectors: Float[Tensor, "n dim"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Find the k vectors with the largest cosine similarity to each query.

    The search is exact: every vector is compared with every query. The similarities are computed
    in blocks, so beyond copies of the arguments in double precision and the result, the memory
    needed does not grow with the number of queries.

    Args:
        queries: Any length except zero.
        vectors: The vectors to search, of any length except zero.
        k: Number of results per query; if there are fewer vectors, all of them are returned.

    Returns:
        The cosine similarities in descending order, and their row numbers in `vectors`. Two
        similarities that agree to 6e-8 count as tied; then the lower row number comes first.

    Raises:
        ValueError: A set is empty or holds a zero vector, NaN or infinity, the widths differ, or
            k is below 1.
    """
    require_rows("queries", queries, "vectors", vectors)
    if k < 1:
        raise ValueError(f"k is {k}, but must be at least 1.")
    q, v = _directions("query", queries), _directions("vector", vectors)
    similarity, places = [], []
    for block in q.split(max(1, BLOCK // len(v))):
        steps = (block @ v.T).mul_(STEPS).round_()  # (b, n)
        best, place = steps.sort(dim=1, descending=True, stable=True)  # ties: the lower row first
        k = min(k, len(v))
        similarity.append(best[:, :k].div(STEPS).float())
        places.append(place[:, :k].clone())  # a view would keep the whole block in memory
    return torch.cat(similarity), torch.cat(places)


def _directions(what: str, x: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
    """Return the vectors scaled to length one, in double precision.

    In single precision, the order of summation changes the last digit of a similarity. Equal
    vectors could then get different similarities instead of a tie.
    """
    x = x.cpu().double()  # not every device has double precision
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not length.all():
        raise ValueError(f"a {what} has length zero, so it has no direction.")
    return x / length


class Picture(NamedTuple):
    """An indexed file."""

    file: str  # path relative to the folder, with "/" as separator
    size: int  # in bytes
    time: int  # of the last modification, in nanoseconds since 1970
    digest: str  # SHA-256 of the bytes


class Hit(NamedTuple):
    """A search result."""

    similarity: float  # cosine similarity of picture and query, -1 to 1
    file: str  # path relative to the folder
    also: tuple[str, ...]  # paths of further files with the same bytes


@dataclass(frozen=True)
class Changes:
    """The differences that `index_folder` found from the old index, as relative paths."""

    added: tuple[str, ...] = ()  # new files
    changed: tuple[str, ...] = ()  # files whose bytes changed
    gone: tuple[str, ...] = ()  # files that no longer exist
    encoded: int = 0  # number of distinct pictures that the model encoded


@dataclass(frozen=True, eq=False)
class Index:
    """The pictures of a folder as vectors in a model's shared space; `index_folder` makes one.

    Files with the same bytes share one vector; the first of them determines its row.
    """

    vectors: Float[Tensor, "n dim"]  # of length one, one for each distinct picture
    pictures: tuple[Picture, ...]  # all files, sorted by path, copies included
    folder: Path  # that holds the files
    model: str  # `fingerprint` of the model that made the vectors
    model_name: str = ""  # where the model was loaded from; it may have been replaced since
    changes: Changes = Changes()  # from the old index; not saved

    @cached_property
    def files(self) -> list[list[str]]:
        """The paths of the files that hold the picture of each vector."""
        found: dict[str, list[str]] = {}
        for picture in self.pictures:
            found.setdefault(picture.digest, []).append(picture.file)
        return list(found.values())

    def __len__(self) -> int:
        """Return the number of distinct pictures."""
        return len(self.vectors)

    def find(self, model: CMSSF, sentences: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Find the pictures that are most similar to each sentence, by exact search.

        Args:
            model: The model that made the index.
            sentences: The queries.
            k: Number of hits per sentence; a smaller index returns all its pictures.

        Returns:
            The hits of each sentence, the most similar first. Ties (to within 6e-8) are in the
            order of the paths.

        Raises:
            ValueError: If another model made the index, a sentence holds a word that the model
                does not know, there is no sentence, or k is below 1.
        """
        self.require_model(model)
        similarity, place = nearest(embed_texts(model, sentences), self.vectors, k)
        return [
            [Hit(s, self.files[i][0], tuple(self.files[i][1:])) for s, i in zip(*row, strict=True)]
            for row in zip(similarity.tolist(), place.tolist(), strict=True)
        ]

    def require_model(self, model: CMSSF) -> None:
        """Check that the index was made by this model, so that their vectors are comparable.

        Raises:
            ValueError: If another model made the index.
        """
        if (own := fingerprint(model)) != self.model:
            raise ValueError(
                f"the index of {self.folder} was made by another model (fingerprint {self.model}, "
                f"not {own}): use that model, or index the folder again with this one"
            )

    def save(self, folder: str | Path, name: str = NAME) -> None:
        """Write ``index.safetensors`` into a folder, and replace an old one atomically.

        Raises:
            OSError: If it cannot be written; an old file then stays intact.
        """
        path, beside = home(folder) / name, dict[str, str]()
        facts = {"folder": str(self.folder), "model": self.model, "model_name": self.model_name}
        # Where pictures and model lie seen from here, for when all of them are moved together.
        for known in filter(os.path.isabs, (facts["folder"], facts["model_name"])):
            with suppress(ValueError):  # it is on another drive of Windows
                beside[known] = os.path.relpath(known, path.parent.resolve())
        content = {**facts, "beside": beside, "pictures": self.pictures}
        written = bytearray(json.dumps(content).encode())
        # Stored as a tensor, because a list of a million files exceeds the limit of the header.
        tensors = {"vectors": self.vectors, "facts": torch.frombuffer(written, dtype=torch.uint8)}
        write_tensors(path, tensors, {"format": FORMAT})

    @classmethod
    def load(cls, folder: str | Path, name: str = NAME) -> "Index":
        """Read an index that `save` wrote, without checking the pictures themselves.

        If the folder of the pictures or of the model is gone, and one lies where it lay seen from
        the index, all of them were moved together, and that one is taken.

        Raises:
            FileNotFoundError: If there is no index.
            ValueError: If its file is damaged or of another kind.
        """
        path = home(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"no index in {folder}: make one with `cmssf index`")
        tensors, _ = read_tensors(path, FORMAT)
        try:
            facts = json.loads(tensors["facts"].numpy().tobytes())
            pictures = tuple(Picture(*picture) for picture in facts.pop("pictures"))
            for known, seen in facts.pop("beside", {}).items():
                moved = (path.parent / seen).resolve()
                if not os.path.exists(known) and moved.exists():
                    facts = {k: str(moved) if v == known else v for k, v in facts.items()}
            index = cls(tensors["vectors"], pictures, Path(facts.pop("folder")), **facts)
            length = index.vectors.norm(dim=1)  # (n,)
            if len(length) != len(index.files) or not ((length - 1).abs() < 1e-3).all():
                raise ValueError("expected a vector of length one for each different picture")
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): delete it and index again") from error
        return index
