"""Reuse of a trained model: save it as a folder, share it on the hub, and search with it.

`save_pretrained` writes a model that needs no data, `from_pretrained` reads it and `push_to_hub`
uploads it. `export_towers` writes both encoders as graphs (ONNX, or PyTorch's) that run without
this library. `index_folder` encodes the pictures of a folder once; the `Index` finds those nearest
to a sentence or a picture, and can be saved to a file. `calibrate` says from which similarity on a
picture fits. `nearest` is the search alone, on any vectors::

    model = from_pretrained("my-model")
    index = index_folder(model, "~/Pictures")
    index.save("runs/index")
    for hit in index.find(model, ["a red seven"], k=3)[0]:
        print(hit.similarity, hit.file)
"""

from cmssf_lib.share.calibration import Calibration as Calibration, calibrate as calibrate
from cmssf_lib.share.exact import nearest as nearest
from cmssf_lib.share.export import export_towers as export_towers
from cmssf_lib.share.folder import index_folder as index_folder
from cmssf_lib.share.hub import (
    fingerprint as fingerprint,
    from_pretrained as from_pretrained,
    push_to_hub as push_to_hub,
    save_pretrained as save_pretrained,
)
from cmssf_lib.share.index import (
    Changes as Changes,
    Hit as Hit,
    Index as Index,
    Picture as Picture,
)
