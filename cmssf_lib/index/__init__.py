"""A search index over a folder of the reader's own pictures.

`index_folder` encodes the pictures once; the `Index` finds those nearest to a sentence, and is
kept in a file. `nearest` is the search alone, on any vectors. So a folder is searched::

    model = CMSSF.from_pretrained("my-model")
    index = index_folder(model, "~/Pictures")
    index.save("runs/index")
    for hit in index.find(model, ["a red seven"], k=3)[0]:
        print(hit.similarity, hit.file)
"""

from cmssf_lib.index.folder import index_folder
from cmssf_lib.index.index import Changes, Hit, Index, Picture, fingerprint
from cmssf_lib.index.search import nearest

__all__ = ["Changes", "Hit", "Index", "Picture", "fingerprint", "index_folder", "nearest"]
