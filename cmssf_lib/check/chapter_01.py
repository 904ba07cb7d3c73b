"""The exercises of chapter 1, the data."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from cmssf_lib.captions import class_caption
from cmssf_lib.check.answers import Answer, Wrong, ask, compare, refuse, same, tensor
from cmssf_lib.data import tones


def caption(answer: Answer) -> str:
    """01.1: ``caption(name, template)`` gives a caption such as "a photo of an automobile"."""
    for name, template in (
        ("truck", "a photo of {}"),
        ("automobile", "a photo of {}"),
        ("fire_engine", "a photo of {}"),
        ("orange_fish", "a bad drawing of {}, in black and white"),
    ):
        right, got = class_caption(name, template), ask(answer, name, template)
        if not isinstance(got, str):
            raise Wrong(f"Expected a text; got {type(got).__name__}.")
        word = name.split("_")[0]
        a_for_an = f"a {word}" in got.split(" of ")[-1] and f"an {word}" in right
        an_for_a = f"an {word}" in got and f"a {word}" in right
        start = "a photo of"
        fixed = got.startswith(start) and not template.startswith(start)
        hints = {
            f"Your captions say 'a {word}': {got!r}. Before a vowel it is 'an'.": a_for_an,
            f"Your captions say 'an {word}': {got!r}. Only before a vowel it is 'an'.": an_for_a,
            f"Your captions hold underscores: {got!r}. They stand for spaces, and a tokenizer "
            "would take 'fire_engine' for a word of its own.": "_" in got,
            f"The template is still empty: {got!r}.": "{}" in got,
            f"Your function does not use the template {template!r}: it gives {got!r}.": fixed,
            f"The article is missing: {got!r}.": got == template.format(name.replace("_", " ")),
            f"For {name!r} in {template!r} expected {right!r}; got {got!r}.": True,
        }
        if got != right:
            refuse(hints)
    return "Article, underscores and template are as they should be."


def encode(answer: Answer) -> str:
    """01.2: ``encode(caption, vocabulary, length)`` gives (ids, mask)."""
    # Arbitrary ids, so that a right answer must have looked them up in the vocabulary.
    words = {"[PAD]": 7, "[UNK]": 3, "[CLS]": 11, "[SEP]": 5, "a": 2, "photo": 9, "of": 4, "cat": 8}
    for text, ids in (
        ("a photo of a cat", [11, 2, 9, 4, 2, 8, 5, 7, 7]),
        ("A Cat", [11, 2, 8, 5, 7, 7, 7, 7, 7]),
        ("a photo of a zebra", [11, 2, 9, 4, 2, 3, 5, 7, 7]),
    ):
        mask = [int(i != 7) for i in ids]
        core = ids[1 : ids.index(5)]
        missing = "A word that the vocabulary does not hold becomes [UNK]."
        if text == "A Cat":
            missing = "Is the text lower-cased first? "
        returned = ask(answer, text, words, 9, on={KeyError: missing})
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise Wrong("Expected two lists, the ids and the mask: return ids, mask.")
        got, got_mask = (tensor(part).flatten().long().tolist() for part in returned)
        hidden = [i for i, kept in zip(got, got_mask, strict=False) if not kept]
        unlowered = text == "A Cat" and 3 in got
        on_the_left, dropped = got[:1] == [7], 3 in ids and 3 not in got
        turned = got_mask == [1 - m for m in mask]
        hints = {
            f"Expected {len(ids)} ids, as the length says; got {len(got)}. Fill "
            "up with [PAD].": len(got) != len(ids),
            "Where is [CLS]? The encoder's answer is read at its place, the first.": 11 not in got,
            "Where is [SEP]? It says where the text ends.": 5 not in got,
            "You pad on the left. [CLS] must stand first in every row: pad "
            "on the right.": on_the_left,
            "'Cat' is not 'cat' to a dictionary: lower-case the text first.": unlowered,
            "An unknown word is dropped in silence. It must become [UNK].": dropped,
            f"For {text!r} expected {ids}, the words being {core}; got {got}.": got != ids,
            "Your mask is turned round: 1 stands for a token, 0 for padding.": turned,
            "Your mask keeps the padding: attention would read [PAD] as if it "
            "were a word.": not hidden,
            "Your mask hides [UNK]. An unknown word is still a word; only padding is hidden.": 3
            in hidden,
            f"For {text!r} expected the mask {mask}; got {got_mask}.": got_mask != mask,
        }
        if (got, got_mask) != (ids, mask):
            refuse(hints)
    return "[CLS] first, [SEP] last, padding behind it, and the mask knows which is which."


def hear(answer: Answer) -> str:
    """01.3: ``hear(sounds)`` of (n, samples) at 8,000 Hz gives the digits."""
    digits = torch.arange(10)
    got = tensor(ask(answer, tones(digits, noise=0.0)))
    from_zero = (digits - 1) % 10
    hints = {
        "You return two frequencies a sound. Look the pair up: which digit has it?": got.shape
        == (10, 2),
        "Every sound is the same digit to you. Did you take the bin's number for its frequency? "
        "Bin i stands for i × 8000 / "
        "samples hertz.": got.shape == (10,) and len(got.unique()) == 1,
        "You number the keys from zero. The first key is the digit 1; zero comes last.": from_zero,
    }
    otherwise = "Without any noise, the digits 0 to 9 sound like {got} to you."
    compare(got, digits, otherwise, hints, what="one digit a sound, shape")
    compare(
        ask(answer, tones(digits, noise=0.0, seconds=0.2)),
        digits,
        "Tones of 0.1 s are right, tones of 0.2 s are not. The width of a bin depends on the "
        "length: it is 8000 / samples hertz.",
    )
    many = digits.repeat(40)
    faint = tensor(ask(answer, tones(many, seed=1, seconds=0.05, noise=0.6)))
    right = float((faint == many).double().mean())
    refuse(
        {
            f"Clean tones are right, short and noisy ones only {right:.0%}. The two largest bins "
            "may belong to one peak: look for the largest below 1,000 Hz and for the "
            "largest above.": right < 0.99
        }
    )
    return "Four hundred short and noisy tones, and hardly one misheard."


def _entropy(values: Sequence[object]) -> float:
    """Return the entropy in bits of the frequencies of the values."""
    n = len(values)
    return -sum(c / n * math.log2(c / n) for c in Counter(values).values())


def remaining_bits(answer: Answer) -> str:
    """01.4: ``remaining_bits(values, captions)`` gives the entropy H(value | caption)."""
    values = ["red", "red", "blue", "blue", "red", "red", "blue", "grey", "grey", "grey", "grey"]
    captions = ["one"] * 6 + ["two"] * 2 + ["three"] * 3
    joint, before = _entropy(list(zip(values, captions, strict=True))), _entropy(values)
    right = joint - _entropy(captions)
    of_each = [_entropy(values[:6]), _entropy(values[6:8]), _entropy(values[8:])]
    hints = {
        "That is in nats: use log2 for bits.": right * math.log(2),
        "You average over the different captions. A caption that more pictures carry counts more: "
        "weight it by how often it occurs.": sum(of_each) / 3,
        "You add up the captions' entropies. Weight each by how often it occurs.": sum(of_each),
        "You ask the wrong way round: what the value leaves open about the caption.": joint
        - before,
        "That is what the caption tells. Return what it leaves open.": before - right,
        "That is the entropy before the caption is read.": before,
        "That is the entropy of value and caption together. Take away the caption's.": joint,
        "The sign is turned round: logarithms of probabilities are negative.": -right,
    }
    otherwise = "For the example expected {right:.3f} bits; got {got:.3f}."
    compare(ask(answer, values, captions), right, otherwise, hints)
    settled = "Three captions that each settle the value leave 0 bits; you say {got}."
    compare(ask(answer, ["a", "b", "c"], ["x", "y", "z"]), 0, settled)
    return "A caption's worth is what it leaves open, weighted by how often it is read."


def floor(answer: Answer) -> str:
    """01.5: ``floor(captions)`` gives the mean of ln n over the pictures of a batch."""
    captions = ["a cat"] * 5 + ["a dog"] * 2 + ["a frog"]
    different = torch.tensor([5.0, 2.0, 1.0])  # number of copies of each caption
    copies = different.repeat_interleave(different.long())  # of each row's caption
    right = copies.log().mean()
    hints = {
        "You average over the different captions. Each picture is a row of the loss: a caption "
        "that five pictures share counts five times.": different.log().mean(),
        "That is in bits. The losses of this book use the natural logarithm.": right / math.log(2),
        "You take the logarithm of the mean. Each row has its own logarithm; "
        "average afterwards.": copies.mean().log(),
        "That is the sum over the batch; the loss is a mean.": copies.log().sum(),
        "That is the number of captions per picture, not its logarithm.": copies.mean(),
    }
    got = ask(answer, captions, on={ValueError: "Does a caption that occurs once count 1?"})
    otherwise = "For 5 cats, 2 dogs and a frog expected {right:.4f}; got {got:.4f}."
    compare(got, right, otherwise, hints)
    alone = "Where all captions differ the floor is ln 1 = 0; you say {got}."
    compare(ask(answer, ["a", "b"]), 0, alone)
    return "Equal captions set a floor; different ones set none."


def brightness(answer: Answer) -> str:
    """01.6: ``brightness(images, strength, generator)`` scales each picture by its own factor."""
    images = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 0.4 + 0.1

    def view(seed: int, strength: float = 0.5) -> Float64[Tensor, "..."]:
        return tensor(ask(answer, images, strength, torch.Generator().manual_seed(seed)))

    got = view(0)
    if got.shape != images.shape:
        raise Wrong(f"Expected views of shape {tuple(images.shape)}; got {tuple(got.shape)}.")
    ratio = (got / images).flatten(1)  # (200, 48); nothing is clipped: 1.5 × 0.5 < 1
    low, high = float(ratio.min()), float(ratio.max())
    wild = view(0, 3.0)  # factors from -2 to 4
    repeats, fixed = same(view(0), got), same(view(1), got)
    too_far, too_near = low < 0.499 or high > 1.501, low > 0.7 or high < 1.3
    outside = bool((wild < 0).any() or (wild > 1).any())
    hints = {
        "The pixels of one picture change by different factors: that is noise. Draw one number a "
        "picture, of shape (b, 1, 1, 1).": bool((ratio.amax(1) - ratio.amin(1)).max() > 1e-3),
        "All pictures of the batch share one factor. Each must draw its own.": high - low < 1e-3,
        "The same generator state gives other views: pass generator= to torch.rand.": not repeats,
        "Another generator gives the same views: do not seed inside the function.": fixed,
        f"For strength 0.5 factors lie in 0.5 … 1.5; yours reach {low:.2f} … {high:.2f}.": too_far,
        f"Your factors run from {low:.2f} to {high:.2f}. They should reach from 1 - strength to 1 "
        "+ strength, evenly.": too_near,
        "Some pixels leave [0, 1]. Clamp the result: the next step expects a picture.": outside,
    }
    refuse(hints)
    return "Each picture draws its own, and stays a picture."


EXERCISES = (caption, encode, hear, remaining_bits, floor, brightness)
