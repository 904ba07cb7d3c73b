"""Search among pictures that are stored as vectors of a model's shared space."""

import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from cmssf_lib.data import ImageTextData
from cmssf_lib.evaluate import embed_images, embed_texts
from cmssf_lib.evaluate.embeddings import Given
from cmssf_lib.files import damage_of, home, replacing
from cmssf_lib.methods import CMSSF
from cmssf_lib.share.calibration import Calibration
from cmssf_lib.share.exact import nearest
from cmssf_lib.share.hub import fingerprint

FORMAT = "cmssf-index-2"
NAME = "index.parquet"
Asked = Sequence[str] | Given  # sentences or pictures


class Picture(NamedTuple):
    """An indexed file."""

    file: str  # path relative to the folder, with "/" as separator
    size: int  # in bytes
    time: int  # of the last modification, in nanoseconds since 1970
    digest: str  # SHA-256 of the bytes


class Hit(NamedTuple):
    """A search result."""

    similarity: float  # of picture and query, -1 to 1, less what is excluded
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
    calibration: Calibration | None = None  # from which similarity on a picture fits a sentence
    changes: Changes = Changes()  # from the old index; not saved

    @cached_property
    def rows(self) -> dict[str, list[Picture]]:
        """For each vector, the digest of its picture and the files that hold it."""
        found: dict[str, list[Picture]] = {}
        for picture in self.pictures:
            found.setdefault(picture.digest, []).append(picture)
        return found

    @property
    def files(self) -> list[list[str]]:
        """The paths of the files that hold the picture of each vector."""
        return [[picture.file for picture in row] for row in self.rows.values()]

    def __len__(self) -> int:
        """Return the number of distinct pictures."""
        return len(self.vectors)

    def find(
        self, model: CMSSF, queries: Asked, k: int = 10, *, without: Asked | None = None
    ) -> list[list[Hit]]:
        """Find the pictures that are most similar to each query, by exact search.

        A picture x gets the score s(query, x) - max(0, s(e, x)) / 2 for the e in ``without`` that
        is most similar to it, where s is the cosine similarity. Half, because what is excluded
        shares words with what is sought: of the first five digit scenes for "a seven" without
        "a red seven" 92 % were right, and 12 % with the whole similarity.

        Args:
            model: The model that made the index.
            queries: Sentences, or pictures (a uint8 tensor, or what `as_images` takes). Pictures
                are more similar to each other than to sentences, so only scores of queries of
                one kind can be compared.
            k: Number of hits per query; a smaller index returns all its pictures.
            without: Sentences or pictures that the hits should not resemble. It should be of the
                same kind as the query: a picture excludes nearly everything that a sentence
                seeks, and a sentence moves the hits of a picture only a little.

        Returns:
            The hits of each query, the highest score first. Ties (to within 6e-8) are in the
            order of the paths.

        Raises:
            ValueError: If another model made the index, a sentence holds a word that the model
                does not know, a picture cannot be read, there is no query, or k is below 1.
        """
        self.require_model(model)
        less = None
        if without is not None:
            alike, _ = nearest(self.vectors, _embedded(model, without), 1)
            less = alike[:, 0].clamp(min=0) / 2  # (n,)
        similarity, place = nearest(_embedded(model, queries), self.vectors, k, less)
        files = self.files
        return [
            [Hit(s, files[i][0], tuple(files[i][1:])) for s, i in zip(*row, strict=True)]
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
        r"""Write ``index.parquet`` into a folder, and replace an old one atomically.

        It is an ordinary Parquet file with one row for each distinct picture: its ``vector`` of
        length one, its ``files`` (paths relative to the folder, copies included) and their
        ``times``, its ``size`` and its ``digest``, as in `Picture`. The other facts are JSON under
        the key "cmssf" of the schema's metadata. In paths, a backslash is doubled, and a byte
        that is not UTF-8 is written as an escape such as ``\udcff``.

        Raises:
            OSError: If it cannot be written; an old file then stays intact.
        """
        path, beside = home(folder) / name, dict[str, str]()
        facts = {"folder": str(self.folder), "model": self.model, "model_name": self.model_name}
        # Where pictures and model lie seen from here, for when all of them are moved together.
        for known in filter(os.path.isabs, (facts["folder"], facts["model_name"])):
            with suppress(ValueError):  # it is on another drive of Windows
                beside[known] = os.path.relpath(known, path.parent.resolve())
        rows = self.rows.values()
        vectors = pa.array(self.vectors.cpu().float().numpy().ravel())
        columns = {
            "vector": pa.FixedSizeListArray.from_arrays(vectors, self.vectors.shape[1]),
            "files": [[_escaped(picture.file) for picture in row] for row in rows],
            "times": [[picture.time for picture in row] for row in rows],
            "size": [row[0].size for row in rows],
            "digest": list(self.rows),
        }
        more = {"format": FORMAT, "calibration": self.calibration, "beside": beside}
        about = {"cmssf": json.dumps(facts | more)}
        table = pa.table(columns).replace_schema_metadata(about)
        with replacing(path) as new:
            parquet.write_table(table, new, use_dictionary=False, write_page_checksum=True)

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
        with damage_of(path, "delete it and index again"), path.open("rb") as file:
            table = parquet.ParquetFile(file, page_checksum_verification=True).read()
            facts = json.loads((table.schema.metadata or {})[b"cmssf"])
            if (kind := facts.pop("format")) != FORMAT:
                raise ValueError(f"its format is {kind!r}, expected {FORMAT!r}")
            for known, seen in facts.pop("beside").items():
                moved = (path.parent / seen).resolve()
                if not os.path.exists(known) and moved.exists():
                    facts = {k: str(moved) if v == known else v for k, v in facts.items()}
            if facts["calibration"] is not None:
                facts["calibration"] = Calibration(*facts["calibration"])
            pictures = sorted(
                Picture(_unescaped(file), row["size"], time, row["digest"])
                for row in table.drop_columns("vector").to_pylist()
                for file, time in zip(row["files"], row["times"], strict=True)
            )
            numbers = table["vector"].combine_chunks().flatten().to_numpy()
            vectors = torch.tensor(numbers).view(len(table), -1)  # (n, dim)
            index = cls(vectors, tuple(pictures), Path(facts.pop("folder")), **facts)
            same = [*index.rows] == table["digest"].to_pylist()
            if not (same and ((vectors.norm(dim=1) - 1).abs() < 1e-3).all()):
                raise ValueError("expected a vector of length one for each different picture")
        return index


def _embedded(model: CMSSF, asked: Asked) -> Float[Tensor, "q dim"]:
    """Return the vectors of sentences or pictures."""
    one = asked[0] if isinstance(asked, list | tuple) and asked else asked
    seen = isinstance(one, Image.Image | ImageTextData) or getattr(one, "ndim", 0) > 1
    embed: Callable[..., Tensor] = embed_images if seen else embed_texts
    return embed(model, asked)


def _escaped(name: str) -> str:
    """Return a path as Unicode: backslashes doubled, bytes that are not UTF-8 as escapes."""
    return name.replace("\\", r"\\").encode("utf-8", "backslashreplace").decode()


def _unescaped(text: str) -> str:
    """Return the path that `_escaped` wrote."""
    return re.sub(r"\\(\\|u.{4})", lambda m: chr(int(m[1][1:] or "5c", 16)), text)
