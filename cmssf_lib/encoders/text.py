"""From a caption to one vector: a BERT from scratch, or a pretrained text encoder."""

from collections.abc import Sequence

from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerBase,
)

from cmssf_lib.captions import tokenize, word_tokenizer
from cmssf_lib.presets import TextConfig


class TextEncoder(nn.Module):
    """A BERT-like encoder that takes captions as strings.

    Args:
        config: From scratch, or a pretrained one by name or folder.
        captions: Texts to build the tokenizer from (scratch only).

    Attributes:
        width: Length of the vector that `forward` returns.
        tokenizer: A tokenizer of the transformers library.

    Raises:
        ValueError: If the kind is unknown, there are no captions to build from, or a folder
            holds a damaged encoder.
        FileNotFoundError: If a pretrained encoder can be neither read nor downloaded.
    """

    def __init__(self, config: TextConfig, captions: Sequence[str] = ()) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: PreTrainedTokenizerBase
        if config.kind == "scratch":
            self.tokenizer = word_tokenizer(captions, config.max_length)
            bert = BertConfig(
                vocab_size=len(self.tokenizer),
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.width,
                max_position_embeddings=config.max_length,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout,
                pad_token_id=self.tokenizer.pad_token_id,
                initializer_range=config.width**-0.5,  # BERT's 0.02 suits 768, not 64
            )
            self.backbone = BertModel(bert, add_pooling_layer=False)
        elif config.kind == "pretrained":
            try:
                self.tokenizer = AutoTokenizer.from_pretrained(config.name)
                self.backbone = AutoModel.from_pretrained(config.name)
            except OSError as error:
                raise FileNotFoundError(
                    f"the text encoder {config.name!r} is neither a folder on this machine nor "
                    "could it be downloaded: connect to the network once, or name a folder "
                    "that save_pretrained wrote"
                ) from error
            except (ValueError, SafetensorError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(
                    f"{config.name!r} holds no complete text encoder ({reason}): expected what "
                    "save_pretrained writes for a model and for its tokenizer"
                ) from error
            # A tokenizer may allow more than the model has positions for.
            positions = getattr(self.backbone.config, "max_position_embeddings", None)
            if positions is not None:
                longest = min(self.tokenizer.model_max_length, positions)
                self.tokenizer.model_max_length = longest
        else:
            raise ValueError(
                f"unknown text encoder {config.kind!r}; choose 'scratch' or 'pretrained'"
            )
        self.width = int(self.backbone.config.hidden_size)

    def forward(self, captions: Sequence[str]) -> Float[Tensor, "captions width"]:
        """Return the [CLS] vector of each caption."""
        ids, mask = tokenize(self.tokenizer, captions, self.backbone.device)
        hidden = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden[:, 0]  # (captions, length, width) -> [CLS] stands first
