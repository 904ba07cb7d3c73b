"""What is known of a folder of pictures, the search in it, and its file."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cmssf_lib.cmssf import CMSSF
from cmssf_lib.evaluate import embed_texts
from cmssf_lib.index.search import check_k, nearest
from cmssf_lib.runs import read_tensors, write_tensors

FORMAT = "cmssf-index-1"


class Picture(NamedTuple):
    """A file that was indexed.

    Attributes:
        file: Its path in the folder, with "/" between the parts.
        size: In bytes.
        time: When it was last changed, in nanoseconds since 1970.
        digest: SHA-256 of its bytes: equal files have equal ones.
    """

    file: str
    size: int
    time: int
    digest: str


class Hit(NamedTuple):
    """A picture that was found.

    Attributes:
        similarity: Cosine of the angle between picture and query, -1 to 1.
        file: Its path in the folder.
        also: Paths of files with the same bytes.
    """

    similarity: float
    file: str
    also: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """What `index_folder` found different from the index before, as paths in the folder.

    Attributes:
        added: Files that were not there.
        changed: Files that hold other bytes than they did.
        gone: Files that are no longer there.
        unreadable: Files that were left out.
        encoded: How many different pictures went through the model.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    encoded: int = 0


@dataclass(frozen=True, eq=False)
class Index:
    """The pictures of a folder as vectors in a model's shared space; `index_folder` makes one.

    Files with the same bytes are one entry, in the place of the first of them.

    Attributes:
        vectors: One of length one for each different picture.
        pictures: All files, sorted by path, copies included.
        folder: Where they are.
        model: `fingerprint` of the model that made the vectors.
        model_name: Where that model was read, if it was; what it holds may have changed since.
        changes: What was done to make it; nothing, if it was read from its file.
    """

    vectors: Float[Tensor, "n dim"]
    pictures: tuple[Picture, ...]
    folder: Path
    model: str
    model_name: str = ""
    changes: Changes = field(default_factory=Changes)

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
        """Find the pictures that are nearest to each sentence; see `search`.

        Raises:
            ValueError: If the model is not the one that made the index, a sentence holds a word
                that it does not know, there is no sentence, or k is below 1.
        """
        check_k(k)
        self.check(model)
        return self.search(embed_texts(model, sentences), k)

    def search(self, queries: Float[Tensor, "q dim"], k: int = 10) -> list[list[Hit]]:
        """Find the pictures that are nearest to each query, by exact comparison with all.

        Args:
            queries: Sentences or pictures in the shared space of the same model; `find` and
                `check` make sure that it is.
            k: How many are wanted; of a smaller index, all are returned.

        Returns:
            For each query its hits, the most similar first. If two are equally similar (to 6e-8),
            the one whose path is sorted first comes first.

        Raises:
            ValueError: There is no query, one has no direction, the dimensions differ, or k is
                below 1.
        """
        similarity, place = nearest(queries.cpu(), self.vectors, k)
        return [
            [Hit(s, self.files[i][0], tuple(self.files[i][1:])) for s, i in zip(*row, strict=True)]
            for row in zip(similarity.tolist(), place.tolist(), strict=True)
        ]

    def check(self, model: CMSSF) -> None:
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
        facts = {
            "folder": str(self.folder),
            "model": self.model,
            "model_name": self.model_name,
            "pictures": self.pictures,
        }
        # As a tensor: a list of a million files is longer than the header of the file may be.
        written = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        path = Path(folder).expanduser() / "index.safetensors"
        write_tensors(path, {"vectors": self.vectors, "facts": written}, {"format": FORMAT})

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
            pictures = tuple(Picture(*picture) for picture in facts["pictures"])
            where = Path(facts["folder"])
            index = cls(tensors["vectors"], pictures, where, facts["model"], facts["model_name"])
            whole = len(index.vectors) == len(index.files)
            whole = whole and bool(((index.vectors.norm(dim=1) - 1).abs() < 1e-3).all())
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{path} is damaged ({error!r}): delete it, and index the folder again"
            ) from error
        if not whole:
            raise ValueError(
                f"{path} is damaged: expected a vector of length one for each of "
                f"{len(index.files)} pictures. Delete it, and index the folder again"
            )
        return index


def fingerprint(model: CMSSF) -> str:
    """Return 16 hexadecimal digits that change with anything that moves a vector of the model.

    These are the weights, how pictures are prepared, and which words have which number. A task
    beside the image–text loss moves none once the model is trained, and is not saved with it.
    """
    vision, tokenizer = model.image_encoder.config, model.text_encoder.tokenizer
    facts = (asdict(replace(vision, weights="")), tokenizer.get_vocab())
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith("image_task."):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
