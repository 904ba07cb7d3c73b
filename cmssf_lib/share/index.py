"""Pictures as vectors in a model's shared space: the search among them, and their file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cmssf_lib.evaluate import embed_texts
from cmssf_lib.evaluate.neighbours import BLOCK, require_rows
from cmssf_lib.files import read_tensors, write_tensors
from cmssf_lib.methods import CMSSF
from cmssf_lib.share.hub import fingerprint

FORMAT = "cmssf-index-1"
#: Similarities are compared in steps of 2⁻²⁴ = 6e-8, the precision of the vectors themselves.
STEPS = 2**24


def nearest(
    queries: Float[Tensor, "q dim"], vectors: Float[Tensor, "n dim"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Find the k vectors that point most nearly in the direction of each query.

    Every vector is compared with every query, so nothing is missed. The matrix of all
    similarities is never whole: beyond a copy of the arguments in double precision and the
    result, the memory needed is that of a block, however many queries there are.

    Args:
        queries: What is looked for, of any length but zero.
        vectors: Where it is looked for, likewise.
        k: How many are wanted; if there are fewer vectors, all of them are returned.

    Returns:
        The cosine similarities, from the largest down, and where in `vectors` they stand. Two
        similarities that are equal to 6e-8 count as tied, and then the earlier place comes first.

    Raises:
        ValueError: A set is empty or holds a vector of length zero, NaN or infinity, the widths
            differ, or k is below 1.
    """
    require_rows("queries", queries, "vectors", vectors)
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least one answer.")
    q, v = _directions("query", queries), _directions("vector", vectors)
    similarity, places = [], []
    for block in q.split(max(1, BLOCK // len(v))):
        steps = (block @ v.T).mul_(STEPS).round_()  # (b, n)
        best, place = steps.sort(dim=1, descending=True, stable=True)  # of tied ones, as they stand
        similarity.append(best[:, :k].div(STEPS).float())
        places.append(place[:, :k].clone())  # not a view, which would keep the block in memory
    return torch.cat(similarity), torch.cat(places)


def _directions(what: str, x: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
    """Vectors of length one, in double precision.

    In single precision the order of a sum shows in the last digit. Two equal vectors could then
    differ in similarity, and would not be tied.
    """
    x = x.double()
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    if not length.all():
        raise ValueError(f"a {what} has length zero: no direction.")
    return x / length


class Picture(NamedTuple):
    """A file that was indexed."""

    file: str  # its path in the folder, with "/" between the parts
    size: int  # in bytes
    time: int  # when it was last changed, in nanoseconds since 1970
    digest: str  # SHA-256 of its bytes: equal files have equal ones


class Hit(NamedTuple):
    """A picture that was found."""

    similarity: float  # cosine of the angle between picture and query, -1 to 1
    file: str  # its path in the folder
    also: tuple[str, ...]  # paths of files with the same bytes


@dataclass(frozen=True)
class Changes:
    """What `index_folder` found different from the index before, as paths in the folder."""

    added: tuple[str, ...] = ()  # files that were not there
    changed: tuple[str, ...] = ()  # files that hold other bytes than they did
    gone: tuple[str, ...] = ()  # files that are no longer there
    encoded: int = 0  # how many different pictures went through the model


@dataclass(frozen=True, eq=False)
class Index:
    """The pictures of a folder as vectors in a model's shared space; `index_folder` makes one.

    Files with the same bytes are one entry, in the place of the first of them.
    """

    vectors: Float[Tensor, "n dim"]  # one of length one for each different picture
    pictures: tuple[Picture, ...]  # all files, sorted by path, copies included
    folder: Path  # where they are
    model: str  # `fingerprint` of the model that made the vectors
    model_name: str = ""  # where that model was read, if it was; it may be another there by now
    changes: Changes = field(default_factory=Changes)  # what was done to make it; not in its file

    @cached_property
    def files(self) -> list[list[str]]:
        """For each vector the paths of the files that hold its picture."""
        found: dict[str, list[str]] = {}
        for picture in self.pictures:
            found.setdefault(picture.digest, []).append(picture.file)
        return list(found.values())

    def __len__(self) -> int:
        """How many different pictures there are."""
        return len(self.vectors)

    def find(self, model: CMSSF, sentences: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Find the pictures that are nearest to each sentence, by exact comparison with all.

        Args:
            model: The one that made the index.
            sentences: What is looked for.
            k: How many are wanted; of a smaller index, all are returned.

        Returns:
            For each sentence its hits, the most similar first. If two are equally similar (to
            6e-8), the one whose path is sorted first comes first.

        Raises:
            ValueError: If the model is another one, a sentence holds a word that it does not know,
                there is no sentence, or k is below 1.
        """
        self.require_model(model)
        similarity, place = nearest(embed_texts(model, sentences), self.vectors, k)
        return [
            [Hit(s, self.files[i][0], tuple(self.files[i][1:])) for s, i in zip(*row, strict=True)]
            for row in zip(similarity.tolist(), place.tolist(), strict=True)
        ]

    def require_model(self, model: CMSSF) -> None:
        """Refuse a model whose space is another.

        Raises:
            ValueError: If the model is not the one that made the index.
        """
        if (own := fingerprint(model)) != self.model:
            raise ValueError(
                f"the index of {self.folder} was made by another model (fingerprint {self.model}; "
                f"this one's is {own}): search with that one, or index the folder again with this"
            )

    def save(self, folder: str | Path) -> None:
        """Write ``index.safetensors`` into a folder, in one stroke; an old one is replaced.

        Raises:
            OSError: If it cannot be written; the old one stays whole.
        """
        facts = {"folder": str(self.folder), "model": self.model, "model_name": self.model_name}
        written = bytearray(json.dumps({**facts, "pictures": self.pictures}).encode())
        # As a tensor: a list of a million files is longer than the header of the file may be.
        tensors = {"vectors": self.vectors, "facts": torch.frombuffer(written, dtype=torch.uint8)}
        write_tensors(Path(folder).expanduser() / "index.safetensors", tensors, {"format": FORMAT})

    @classmethod
    def load(cls, folder: str | Path) -> "Index":
        """Read what `save` wrote; the pictures themselves are not looked at.

        Raises:
            FileNotFoundError: If there is no index.
            ValueError: If its file is damaged or of another kind.
        """
        path = Path(folder).expanduser() / "index.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"no index in {folder}: `cmssf index` makes one")
        tensors, _ = read_tensors(path, FORMAT)
        try:
            facts = json.loads(tensors["facts"].numpy().tobytes())
            pictures = tuple(Picture(*picture) for picture in facts.pop("pictures"))
            index = cls(tensors["vectors"], pictures, Path(facts.pop("folder")), **facts)
            length = index.vectors.norm(dim=1)  # (n,)
            if len(length) != len(index.files) or not ((length - 1).abs() < 1e-3).all():
                raise ValueError("expected a vector of length one for each different picture")
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}): delete it and index again") from error
        return index
