"""A trained model as one folder that needs no data, saved and shared as Hugging Face's hub does it.

<folder>/config.json         the configurations, and the words of the tokenizer
<folder>/model.safetensors   the weights
<folder>/text/               tokenizer and configuration of a pretrained text encoder
<folder>/README.md           the model card, written from the run
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import save_file

from cmssf_lib.presets import CMSSFConfig, TextConfig, VisionConfig, from_json

FORMAT = "cmssf-model-1"
CARD = """---
{{ card_data }}
---

# CMSSF: pictures and sentences in one space

A picture and a sentence that mean the same lie close to each other: compare their vectors.

```python
from cmssf_lib.cmssf import CMSSF

model = CMSSF.from_pretrained("this folder, or its name on the hub")
image, text = model.encode_image(images), model.encode_text(sentences)  # of length one
similarity = image @ text.T
```

{% if run -%}
## How it was trained

Run `{{ run.name }}`: {{ run.config["train"]["epochs"] }} epochs on {{ data }} (fingerprint
`{{ run.config["data_fingerprint"] }}`), on {{ processor }}, commit `{{ commit }}`.
Make it again: `{{ run.command }}`.

| measured on the test set | |
|:--|--:|
{% for name, value in run.results.items() -%}
| {{ name }} | {{ "%.4g" | format(value) }} |
{% endfor %}
{%- else -%}
No run was given when this card was written: how it was trained is not recorded here.
{%- endif %}

## Limits

It knows the pictures and the words that it was trained on. {{ words }}
"""


@runtime_checkable
class Recorded(Protocol):
    """What a model card tells of a run; a `cmssf_lib.runs.Run` is one."""

    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, float]

    @property
    def name(self) -> str:
        """What the run is called."""

    @property
    def command(self) -> str:
        """What makes it again."""


class OnTheHub(
    PyTorchModelHubMixin,
    library_name="cmssf",
    pipeline_tag="zero-shot-image-classification",
    tags=["contrastive-learning", "image-text"],
    model_card_template=CARD,
):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for a model of two encoders."""

    def save_pretrained(
        self, save_directory: str | Path, *, run: Recorded | None = None, **settings: Any
    ) -> str | None:
        """Write the model into a folder.

        Args:
            save_directory: Made if it is not there; an old model in it is replaced, card and all.
            run: The training, for the model card.
            settings: For the hub, such as ``push_to_hub=True`` and ``repo_id``.
        """
        (Path(save_directory) / "README.md").unlink(missing_ok=True)
        settings.setdefault("model_card_kwargs", self._card(run))
        return super().save_pretrained(save_directory, **settings)

    def push_to_hub(self, repo_id: str, *, run: Recorded | None = None, **settings: Any) -> str:
        """Upload the model.

        Args:
            repo_id: Such as "me/my-cmssf".
            run: The training, for the model card.
            settings: Of the hub: ``private``, ``token``, ``branch``, ``commit_message``, …
        """
        settings.setdefault("model_card_kwargs", self._card(run))
        return super().push_to_hub(repo_id, **settings)

    def _card(self, run: Recorded | None) -> dict[str, Any]:
        text: TextConfig = self.text_encoder.config  # type: ignore[attr-defined]
        number = len(self.text_encoder.words)  # type: ignore[attr-defined]
        known = f"Its tokenizer knows {number:,} words, and refuses others."
        card = {"run": run, "words": known if text.kind == "scratch" else ""}
        if run is not None:
            card |= {
                "data": run.config.get("data", {}).get("name", "data of the reader's own"),
                "processor": run.environment.get("processor", "an unknown machine"),
                "commit": run.environment.get("commit", "unknown"),
            }
        return card

    def _save_pretrained(self, save_directory: Path) -> None:
        # A task beside the image–text loss served the training; the model does without it.
        state = self.state_dict()  # type: ignore[attr-defined]
        own = {k: v.contiguous() for k, v in state.items() if not k.startswith("image_task.")}
        save_file(own, save_directory / "model.safetensors", {"format": "pt"})
        vision, text = self.image_encoder.config, self.text_encoder  # type: ignore[attr-defined]
        pretrained = text.config.kind == "pretrained"
        if pretrained:
            text.save_parts(save_directory / "text")
        content = {
            "format": FORMAT,
            "vision": asdict(replace(vision, weights="")),  # they are here, whatever they began as
            "text": asdict(text.config),
            "cmssf": asdict(replace(self.config, image_loss="")),  # type: ignore[attr-defined]
            "words": [] if pretrained else text.words,
        }
        written = json.dumps(content, indent=2, ensure_ascii=False)
        (save_directory / "config.json").write_text(written, encoding="utf-8")

    @classmethod  # not the hub's own, which makes nested configurations from JSON as they are
    def from_pretrained(  # type: ignore[override]
        cls, model: str | Path, *, map_location: str = "cpu", **settings: Any
    ) -> "OnTheHub":
        """Read a model that `save_pretrained` wrote.

        Args:
            model: Its folder, or its name on the hub.
            map_location: The device to put it on.
            settings: Of the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, …

        Returns:
            The model, in evaluation mode.

        Raises:
            FileNotFoundError: If it is neither here nor can be downloaded, or the folder holds no
                model.
            ValueError: If the folder holds another kind of model, one of a later version, or
                damaged weights.
            RuntimeError: If the weights do not fit the configuration.
        """
        folder = _folder(str(model), settings)
        config = _read_config(folder)
        text = from_json(TextConfig, config["text"])
        own = cls(
            from_json(VisionConfig, config["vision"]),
            text,
            from_json(CMSSFConfig, config["cmssf"]),
            captions=config["words"],
            text_folder=folder / "text" if text.kind == "pretrained" else None,
        )
        weights = folder / "model.safetensors"
        try:
            return cls._load_as_safetensor(own, str(weights), map_location, strict=True)
        except SafetensorError as error:
            raise ValueError(
                f"{weights} is damaged ({error}): save or download it again"
            ) from error


def _folder(model_id: str, settings: Mapping[str, Any]) -> Path:
    """Return the folder of a model: a local one, or what was downloaded."""
    if Path(model_id).is_dir():
        return Path(model_id)
    try:
        return Path(snapshot_download(model_id, **settings))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"the model {model_id!r} is neither a folder on this machine nor could it be "
            "downloaded: name a folder that save_pretrained wrote, or connect to the network once"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{folder} holds no model: there is no config.json in it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{path} does not describe a CMSSF: expected the format {FORMAT!r}")
    return config
