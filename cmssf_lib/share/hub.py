"""Save a trained model as one folder, in the layout of Hugging Face's hub, and share it there.

<folder>/config.json         the configurations, and the words of the tokenizer
<folder>/model.safetensors   the weights
<folder>/text/               tokenizer and configuration of a pretrained text encoder
<folder>/README.md           the model card, written from the run
"""

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HFValidationError

from cmssf_lib import files
from cmssf_lib.encoders import ImageEncoder, TextConfig, TextEncoder, VisionConfig
from cmssf_lib.methods import CMSSF, CMSSFConfig
from cmssf_lib.runs import Run
from cmssf_lib.settings import from_json

FORMAT = "cmssf-model-1"
#: Subfolder for the complete files of a new model until they have replaced the old ones.
NEW = ".new"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
CARD = Path(__file__).with_name("card.md")


def save_pretrained(model: CMSSF, folder: str | Path, *, run: Run | None = None) -> None:
    """Write a model into a folder. If this fails, an old model there stays complete.

    Args:
        model: Saved without the auxiliary image task, if it has one.
        folder: Created if missing. An old model in it is replaced; other files are kept, and none
            may have the name of a file that is written.
        run: The training run, for the model card.

    Raises:
        ValueError: If the folder holds a run, or any file that a save would replace or delete and
            that no save wrote.
        OSError: If it cannot be written.
    """
    folder = files.home(folder)
    files.require_writable(folder)
    _require_own_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _put_in_place(folder)
    with TemporaryDirectory(dir=folder, prefix=f"{NEW}-") as unfinished:
        _write(model, Path(unfinished, "model"), run)
        Path(unfinished, "model").rename(folder / NEW)  # from now on the new model is read
    _put_in_place(folder)


def push_to_hub(model: CMSSF, repo_id: str, *, run: Run | None = None, **hub_settings: Any) -> str:
    """Upload a model to Hugging Face's hub, and return the URL of the commit.

    Args:
        model: Uploaded in the form that `save_pretrained` writes.
        repo_id: Such as "me/my-cmssf"; created if missing.
        run: The training run, for the model card.
        hub_settings: ``token``; ``private``, for a new repository; and arguments of
            `HfApi.upload_folder`: ``revision``, ``commit_message``, ``create_pr``, …
    """
    api = HfApi(token=hub_settings.pop("token", None))
    private = hub_settings.pop("private", None)
    with TemporaryDirectory() as folder:
        _write(model, Path(folder), run)
        own = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        # Delete an old model's text encoder; the new model replaces the other files anyway.
        hub_settings = {"delete_patterns": "text/*", **hub_settings}
        return str(api.upload_folder(repo_id=own, folder_path=folder, **hub_settings))


def from_pretrained(folder_or_name: str | Path, **hub_settings: Any) -> CMSSF:
    """Read a model that `save_pretrained` wrote.

    Args:
        folder_or_name: Its folder, or its name on the hub.
        hub_settings: Arguments of `snapshot_download`: ``revision``, ``token``,
            ``local_files_only``, …

    Returns:
        The model, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: If the folder is missing and nothing can be downloaded, or it holds
            no complete model.
        ValueError: If the folder holds another kind of model, a later format, a damaged model,
            or weights that do not fit the configuration.
    """
    folder = files.home(folder_or_name)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(str(folder_or_name), **hub_settings))
        except (OSError, HFValidationError) as error:  # the latter: not a valid name on the hub
            raise FileNotFoundError(
                f"the model {str(folder_or_name)!r} is neither a folder on this machine nor "
                "available for download: name a saved model's folder, or check the network"
            ) from error
    config = _read_config(_part(folder, CONFIG))
    tensors, _ = files.read_tensors(_part(folder, WEIGHTS), "pt")
    with files.damage_of(folder, "put back a whole model, or update the library if it is newer"):
        text = from_json(TextConfig, config["text"])
        parts = _part(folder, "text") if text.kind == "pretrained" else None
        image_encoder = ImageEncoder(from_json(VisionConfig, config["vision"]))
        text_encoder = TextEncoder(text, config["words"], parts)
        if parts is None and text_encoder.words != config["words"]:
            raise ValueError("its words were read in another way, so their numbers have changed")
        model = CMSSF(image_encoder, text_encoder, from_json(CMSSFConfig, config["cmssf"]))
        model.load_state_dict(tensors)
        model.to(tensors["log_scale"].dtype)  # a model in half precision stays in it
    return model.eval()


def fingerprint(model: CMSSF) -> str:
    """Return 16 hexadecimal digits that identify everything the model's vectors depend on.

    This covers the weights, the image encoder's configuration and the vocabulary, but not the
    auxiliary image task, which is used only in training and not saved with the model.
    """
    vision, tokenizer = model.image_encoder.config, model.text_encoder.tokenizer
    facts = (asdict(replace(vision, weights="")), tokenizer.get_vocab())
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(_weights(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _weights(model: CMSSF) -> dict[str, torch.Tensor]:
    """Return the weights of a model without its auxiliary task, which only training needs."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("image_task.")}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _write(model: CMSSF, folder: Path, run: Run | None) -> None:
    """Write the files of a model into a new folder."""
    text, words = model.text_encoder, model.text_encoder.words
    if text.config.kind == "pretrained":
        text.save_parts(folder / "text")
        words = []
    parts = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    written = [CONFIG, "README.md", WEIGHTS, *parts]
    files.write_tensors(folder / WEIGHTS, _weights(model), {"format": "pt"})
    content = {
        "format": FORMAT,
        "files": sorted(written),  # the next save into the folder replaces these and no others
        # The saved weights are complete, so reading needs no pretrained ones and no image task.
        "vision": asdict(replace(model.image_encoder.config, weights="")),
        "text": asdict(text.config),
        "cmssf": asdict(replace(model.config, image_loss="")),
        "words": words,
    }
    files.write_json(folder / CONFIG, content)
    card = ModelCard.from_template(ModelCardData(), str(CARD), run=run, words=len(words))
    with files.replacing(folder / "README.md") as unfinished:
        card.save(unfinished)


def _require_own_folder(folder: Path) -> None:
    """Refuse a folder in which a save would replace or delete files that no save wrote."""
    written, there = set[str](), set[str]()
    for place in (folder, folder / NEW):
        with suppress(OSError, ValueError):
            written |= set(_read_config(place / CONFIG).get("files", ()))
        for part in (CONFIG, "README.md", WEIGHTS, "text"):
            paths = [place / part, *(place / part).rglob("*")]
            paths = [path for path in paths if path.is_file() or path.is_symlink()]
            there |= {path.relative_to(place).as_posix() for path in paths}
    if foreign := sorted(there - written):
        raise ValueError(
            f"{folder} holds {', '.join(foreign[:5])}, not written by save_pretrained: saving a "
            "model there would destroy that, so choose another folder"
        )


def _put_in_place(folder: Path) -> None:
    """Move the files of a new model, if there is one, from its subfolder `NEW` to their place.

    If this is interrupted, the files not yet moved are read from `NEW`. The next save moves them.
    """
    if (folder / NEW).is_dir():
        parts = list((folder / NEW).iterdir())
        kind = _read_config(_part(folder, CONFIG))["text"]["kind"] if parts else None
        if kind == "scratch" or (folder / NEW / "text").exists():
            shutil.rmtree(folder / "text", ignore_errors=True)  # the old model's
        for part in sorted(parts, key=lambda part: part.name == CONFIG):  # it says which are ours
            part.replace(folder / part.name)
        (folder / NEW).rmdir()


def _part(folder: Path, name: str) -> Path:
    """Return the path of a part of a model; an interrupted save leaves some parts in `NEW`."""
    for path in (folder / NEW / name, folder / name):
        if path.exists():
            return path
    raise FileNotFoundError(f"{folder} holds no complete model: {name} is missing")


def _read_config(path: Path) -> dict[str, Any]:
    """Read a model's config.json, and refuse one of anything else, such as a run."""
    config = files.read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe a CMSSF model: expected the format {FORMAT!r}")
    return config
