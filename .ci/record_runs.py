"""Make the recorded runs of chapters 4 to 10 that are not there yet.

    python .ci/record_runs.py quick/simclr quick/moco   those whose name is or begins so; else all
    python .ci/record_runs.py --list                    what there is to make, as commands

Quick runs have three seeds. Those of the standard preset have one, since they learn from CIFAR-10,
for hours; on a frozen tower it takes minutes, and there are three seeds.

Some runs begin with the weights of others: make `quick/dino-` before `quick/cmssf-`, and
`standard/dino` before `standard/cmssf`.

Run it in a clean clone, so that each record names the commit that made it, and copy the folders of
`book/runs` back. `--jobs 2` makes two at a time, of one thread each: on two cores that is faster
than one after the other.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cmssf_lib.build import preset_of, trained
from cmssf_lib.data import load
from cmssf_lib.evaluate import embed
from cmssf_lib.files import read_tensors, write_tensors
from cmssf_lib.fusion import FusionClassifier
from cmssf_lib.methods import BYOL, CMSSF, DINO, MAE, Method, MoCo, SimCLR, Supervised, VICReg
from cmssf_lib.runs import Run

KINDS: dict[str, type[Method]] = {
    kind.__name__.lower(): kind
    for kind in (BYOL, CMSSF, DINO, MAE, MoCo, SimCLR, Supervised, VICReg)
} | {"fusion": FusionClassifier}
ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(3)
SHORT = {
    "simclr": "train.epochs=10",
    "moco": "train.epochs=12",
    "byol": "train.epochs=12",
    "dino": "train.epochs=12",
    "mae": "train.epochs=20 fine_tune.baseline=False",
}
DESTROYED = " ".join(
    f"simclr.views.{change}"
    for change in ("brightness=0.4", "contrast=0.4", "saturation=0.8", "hue=0.5", "jitter=0.9",
                   "grey=0.2")
)  # fmt: skip
SHIFT_ALONE = " ".join(
    f"fine_tune.views.{change}" for change in ("area=1,1", "ratio=1,1", "turn=0", "shear=0")
)
STILL = "turn=0 shear=0 ratio=1,1 area=1,1 shift=0"

#: Trainings that are compared with each other: method, then name → settings.
LONG = {
    "simclr": ("simclr", "train.epochs=100"),
    "moco": ("moco", "train.epochs=100"),
    "byol": ("byol", "train.epochs=45"),
    "dino": ("dino", "train.epochs=60"),
    "mae": ("mae", "train.epochs=100"),
    "mae-shift": ("mae", f"train.epochs=100 {SHIFT_ALONE}"),
    "supervised": ("supervised", ""),
    "supcon": ("supervised", "supervised.loss=supcon"),
}
#: The quick preset of CMSSF with other captions, losses or batches (chapter 7), and its encoder
#: with labels in place of captions.
LIKE_CMSSF = (
    "data.flavour=colour data.train=6500 vision.depth=2 train.epochs=22 train.weight_decay=0.05 "
    + " ".join(f"supervised.views.{setting}" for setting in STILL.split()[:-1])
    + " supervised.views.shift=0.0625"
)
CLIP = {
    "cmssf-masked": ("cmssf", "cmssf.loss=masked"),
    "cmssf-batch-256": ("cmssf", "train.batch_size=256"),
    "cmssf-class": ("cmssf", "data.text=class"),
    "cmssf-class-multi-positive": ("cmssf", "data.text=class cmssf.loss=multi_positive"),
    "cmssf-class-excess": ("cmssf", "data.text=class cmssf.loss=excess"),
    "cmssf-class-masked": ("cmssf", "data.text=class cmssf.loss=masked"),
    "cmssf-class-batch-32": ("cmssf", "data.text=class train.batch_size=32"),
    "cmssf-class-batch-64": ("cmssf", "data.text=class train.batch_size=64"),
    "cmssf-class-batch-256": ("cmssf", "data.text=class train.batch_size=256"),
    "supervised-colour": ("supervised", LIKE_CMSSF),
    "supcon-colour": ("supervised", f"{LIKE_CMSSF} supervised.loss=supcon"),
}
#: CMSSF's encoder, trained by DINO before it hears a caption: on the scenes that will have
#: captions, and on plain ones (chapter 8). Others begin with their weights, so these are kept.
BEFORE = {
    "dino-colour": (
        "dino",
        "data.flavour=colour data.train=6500 vision.depth=2 train.epochs=10 train.batch_size=64",
    ),
    "dino-plain": ("dino", "vision.depth=2 train.epochs=30"),
}
FROM_COLOUR = "vision.weights=quick/dino-colour-s{seed}"
FROM_PLAIN = "vision.weights=quick/dino-plain-s{seed}"
FEW = "data.train=1500 train.epochs=100"
# The views of a second task: CMSSF's preset has none of its own.
FAR = "area=0.56,1.7 ratio=0.77,1.3 turn=0.35 shear=0.25 shift=0.2"
NEAR = "area=0.8,1.25 ratio=0.87,1.15 turn=0.2 shear=0.15 shift=0.1"
BESIDE_SIMCLR = " ".join(f"simclr.views.{change}" for change in FAR.split()) + f" {DESTROYED}"
BESIDE_DINO = (
    "dino.head_norm=True dino.teacher_temperature=0.07 dino.momentum=0.9 dino.local_crops=0 "
    + " ".join(f"dino.views.{change}" for change in NEAR.split())
    + " "
    + " ".join(f"dino.local_views.{change}" for change in STILL.split())
)
#: The quick preset of CMSSF with one part changed (chapter 8).
PARTS = {
    "cmssf-linear-heads": ("cmssf", "cmssf.depth=0"),
    "cmssf-two-layers": ("cmssf", "cmssf.depth=2"),
    "cmssf-hidden-32": ("cmssf", "cmssf.hidden=32"),
    "cmssf-dim-2": ("cmssf", "cmssf.dim=2"),
    "cmssf-dim-8": ("cmssf", "cmssf.dim=8"),
    "cmssf-frozen-random": ("cmssf", "cmssf.freeze_image=True"),
    "cmssf-frozen-dino": ("cmssf", f"cmssf.freeze_image=True {FROM_COLOUR}"),
    "cmssf-frozen-dino-plain": ("cmssf", f"cmssf.freeze_image=True {FROM_PLAIN}"),
    "cmssf-from-dino": ("cmssf", FROM_COLOUR),
    "cmssf-from-dino-plain": ("cmssf", FROM_PLAIN),
    "cmssf-few": ("cmssf", FEW),
    "cmssf-few-from-dino": ("cmssf", f"{FEW} {FROM_COLOUR}"),
    "cmssf-few-from-dino-plain": ("cmssf", f"{FEW} {FROM_PLAIN}"),
    "cmssf-simclr": ("cmssf", f"cmssf.image_loss=simclr cmssf.image_weight=0.5 {BESIDE_SIMCLR}"),
    "cmssf-dino": ("cmssf", f"cmssf.image_loss=dino cmssf.image_weight=0.5 {BESIDE_DINO}"),
}
#: One setting changed in a short training.
CHANGED = {
    "simclr": {
        "temperature-0.05": "simclr.temperature=0.05",
        "temperature-1.0": "simclr.temperature=1.0",
        "batch-32": "train.batch_size=32",
        "batch-512": "train.batch_size=512",
        "without-shift": "simclr.views.shift=0",
        "without-zoom": "simclr.views.area=1,1",
        "without-views": " ".join(f"simclr.views.{setting}" for setting in STILL.split()),
        "tinted": "data.flavour=tinted",
        "tinted-jitter": f"data.flavour=tinted {DESTROYED}",
    },
    "moco": {
        "no-in-batch": "moco.in_batch=False",
        "queue-1024": "moco.queue=1024",
        "momentum-0": "moco.momentum=0",
        "momentum-0.99": "moco.momentum=0.99",
    },
    "byol": {
        "no-stop-gradient": "byol.stop_gradient=False",
        "no-predictor": "byol.predictor=False",
        "momentum-0": "byol.momentum=0",
        "momentum-0.99": "byol.momentum=0.99",
    },
    "dino": {
        "no-centre": "dino.centre_momentum=1",
        "no-sharpening": "dino.teacher_temperature=0.1",
        "crops-2": "dino.local_crops=2",
        "momentum-0.99": "dino.momentum=0.99",
    },
    "mae": {
        "mask-0.25": "mae.mask_ratio=0.25",
        "mask-0.75": "mae.mask_ratio=0.75",
        "normalised": "mae.normalise=True",
    },
}

#: On CIFAR-10, one budget of operations for each (chapter 10). Two go on from DINO's weights; one
#: of them as the source chapter says: a frozen tower, 100 epochs, Adam, a constant rate.
AS_WRITTEN = (
    "vision.weights=standard/dino cmssf.freeze_image=True cmssf.head_norm=False train.epochs=100 "
    "train.optimizer=adam train.lr=1e-4 train.text_lr=1 train.schedule=constant train.warmup=0 "
    "train.weight_decay=0 train.clip=0"
)
#: Harder views and twice the decay: for a model that knows its pictures by heart.
HARDER = "cmssf.views.shift=0.125 cmssf.views.erase=0.375 train.weight_decay=0.1"
EQUAL = {
    "dino": ("dino", ""),
    "simclr": ("simclr", ""),
    "moco": ("moco", ""),
    "byol": ("byol", ""),
    "mae": ("mae", ""),
    "supervised": ("supervised", ""),
    "cmssf": ("cmssf", "vision.weights=standard/dino"),
    "cmssf-scratch": ("cmssf", ""),
    "cmssf-erased": ("cmssf", f"{HARDER} train.epochs=32"),
    # All that held-out pictures can decide is decided, so most of them join the training.
    "cmssf-longer": ("cmssf", f"{HARDER} train.epochs=46 data.validation=500"),
    # Minutes on cached features, so three seeds; one of them is fine-tuned.
    "cmssf-frozen": ("cmssf", AS_WRITTEN),
    "cmssf-frozen-s1": ("cmssf", f"{AS_WRITTEN} judge.fine_tune=False train.seed=1"),
    "cmssf-frozen-s2": ("cmssf", f"{AS_WRITTEN} judge.fine_tune=False train.seed=2"),
    "untrained": ("supervised", "train.epochs=0 judge.pixels=True"),
}
#: Photographs with a sentence that is true of several classes (chapters 2 and 3).
CLUES = {
    "clues-late": ("fusion", "fusion.kind=late fusion.rule=mean"),
    "clues-concat": ("fusion", ""),
    "clues-coattention": ("fusion", "fusion.kind=coattention fusion.rule=separate"),
}
#: The one of them whose space chapter 10 draws.
SHOWN = "standard/cmssf"
#: Nothing reads their weights, and all that is tracked has to fit 45 MiB. What these runs claim is
#: computed again from their outputs; `cmssf reproduce` makes the weights again.
WITHOUT_WEIGHTS = {
    "standard/untrained",  # its weights follow from its seed
    "standard/cmssf-frozen",  # its image encoder is standard/dino's
    "standard/cmssf-frozen-s1",
    "standard/cmssf-frozen-s2",
    "standard/cmssf-erased",  # hours; a step on the way to standard/cmssf-longer
    "standard/cmssf-longer",
    "standard/moco",
    "standard/byol",
    "standard/clues-late",  # chapter 2 shows their answers
    "standard/clues-concat",
}


def options(settings: str) -> list[str]:
    """Turn "train.lr=0.1 simclr.views.area=1,1" into the words of ``cmssf train``."""
    words = []
    for setting in settings.split():
        name, _, value = setting.partition("=")
        words += [f"--{name}", *value.split(",")]
    return words


def commands() -> Iterator[tuple[str, list[str]]]:
    """The name of each run in `book/runs`, and the arguments of `cmssf` that make it."""
    runs = BEFORE | LONG | CLIP | PARTS  # those that others begin with come first
    for method, changes in CHANGED.items():
        for name, settings in {"short": "", **changes}.items():
            runs[f"{method}-{name}"] = (method, f"{SHORT[method]} {settings}")
    for seed in SEEDS:
        for name, (method, settings) in runs.items():
            run = f"quick/{name}-s{seed}"
            own = options(settings.replace("{seed}", str(seed)))
            yield run, [
                "train", method, "--preset", "quick", *own, "--train.seed", str(seed),
                "--run", f"book/runs/{run}",
            ]  # fmt: skip
    for name, (method, settings) in (EQUAL | CLUES).items():
        kept = f"{settings} train.half_weights=True"  # a record takes half the room
        run = f"standard/{name}"
        own = [*options(kept), "--run", f"book/runs/{run}"]
        yield run, ["train", method, "--preset", "standard", *own]


def lasting(method: str) -> tuple[str, ...]:
    """How the names begin of the weights that a record of this method keeps."""
    return KINDS[method].lasting


def lighten(name: str, folder: Path) -> None:
    """Make a record small enough to travel with the book.

    A quick run keeps neither weights nor outputs, unless others begin with it. Of another's weights
    stay those that serve after the training, or none (see `WITHOUT_WEIGHTS`). Where each test
    picture lies in the shared space stays with the run whose figures show it. The others keep, of
    one seed, each picture's similarity with each caption: as exact, a twelfth of the size, and all
    their numbers follow from it. The answers stay with all.
    """
    if name.startswith("quick/") and name.removeprefix("quick/").rpartition("-s")[0] not in BEFORE:
        for file in ("model.safetensors", "outputs.npz"):
            (folder / file).unlink(missing_ok=True)
        return
    run = Run.load(folder)
    if name != SHOWN and "image" in run.outputs:
        del run.outputs["image"]
        if run.config["train"]["seed"] == 0:
            # Not from the outputs: they are in half precision, which can turn an answer.
            splits = load(preset_of(run.config).data)
            model = trained(run, splits.train)
            assert isinstance(model, CMSSF)
            found = embed(model, splits.test)
            run.outputs["similarity"] = (found.image @ found.text.T).numpy()  # (n, captions)
        run.save()
    weights = folder / "model.safetensors"
    if name in WITHOUT_WEIGHTS:
        weights.unlink(missing_ok=True)
    elif weights.is_file():
        tensors, metadata = read_tensors(weights, "cmssf-weights-1")
        kept = lasting(run.config["method"])
        tensors = {key: value for key, value in tensors.items() if key.startswith(kept)}
        write_tensors(weights, tensors, metadata)


def make(run: str, arguments: list[str]) -> bool:
    """Make one run with a thread of its own; what it prints is shown if it fails."""
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    # -c finds the library of this clone, not the one that is installed.
    cmssf = [sys.executable, "-c", "from cmssf_lib.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*cmssf, *arguments],
        cwd=ROOT, env=os.environ | one_thread | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0:
        lighten(run, ROOT / "book" / "runs" / run)
    print(f"{run}: {'done' if done.returncode == 0 else done.stdout + done.stderr}", flush=True)
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="names, or beginnings of names")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    runs = dict(commands())
    for name in asked.names:
        if not any(run.startswith(name) for run in runs):
            parser.error(f"no run is called {name}, or begins so; --list shows what there is")
    begins = tuple(name for name in asked.names or [""] if name not in runs)
    chosen = [
        (run, arguments)
        for run, arguments in runs.items()
        if (run in asked.names or run.startswith(begins))
        and not (ROOT / "book" / "runs" / run / "results.json").is_file()
    ]
    if asked.list:
        print("\n".join("cmssf " + shlex.join(arguments) for _, arguments in chosen))
        return 0
    with ThreadPoolExecutor(asked.jobs) as pool:
        return 0 if all(list(pool.map(lambda pair: make(*pair), chosen))) else 1


if __name__ == "__main__":
    sys.exit(main())
