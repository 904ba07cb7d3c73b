"""The exercises of chapter 1, the data."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from cmssf_lib.captions import class_caption
from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, same, tensor
from cmssf_lib.data import tones


def caption(answer: Callable) -> str:
    """01.1: ``caption(name, template)`` such as "a photo of an automobile"."""
    for name, template in (
        ("truck", "a photo of {}"),
        ("automobile", "a photo of {}"),
        ("fire_engine", "a photo of {}"),
        ("orange_fish", "a bad drawing of {}, in black and white"),
    ):
        right, got = class_caption(name, template), ask(answer, name, template)
        if got == right:
            continue
        if not isinstance(got, str):
            raise Wrong(f"Expected a text; got {type(got).__name__}.")
        word = name.split("_")[0]
        if f"a {word}" in got.split(" of ")[-1] and f"an {word}" in right:
            raise Wrong(f"Your captions say 'a {word}': {got!r}. Before a vowel it is 'an'.")
        if f"an {word}" in got and f"a {word}" in right:
            raise Wrong(f"Your captions say 'an {word}': {got!r}. Only before a vowel it is 'an'.")
        if "_" in got:
            raise Wrong(
                f"Your captions hold underscores: {got!r}. They stand for spaces, and a "
                "tokenizer would take 'fire_engine' for a word of its own."
            )
        if "{}" in got:
            raise Wrong(f"The template is still empty: {got!r}.")
        if got.startswith("a photo of") and not template.startswith("a photo of"):
            raise Wrong(f"Your function does not use the template {template!r}: it gives {got!r}.")
        if got == template.format(name.replace("_", " ")):
            raise Wrong(f"The article is missing: {got!r}.")
        raise Wrong(f"For {name!r} in {template!r} expected {right!r}; got {got!r}.")
    return "Article, underscores and template are as they should be."


def encode(answer: Callable) -> str:
    """01.2: ``encode(caption, vocabulary, length)`` gives (ids, mask)."""
    # Numbers nobody would guess: they must come from the vocabulary.
    words = {"[PAD]": 7, "[UNK]": 3, "[CLS]": 11, "[SEP]": 5, "a": 2, "photo": 9, "of": 4, "cat": 8}
    for text, ids in (
        ("a photo of a cat", [11, 2, 9, 4, 2, 8, 5, 7, 7]),
        ("A Cat", [11, 2, 8, 5, 7, 7, 7, 7, 7]),
        ("a photo of a zebra", [11, 2, 9, 4, 2, 3, 5, 7, 7]),
    ):
        mask = [int(i != 7) for i in ids]
        case = "Is the text lower-cased first? "
        unknown = "A word that the vocabulary does not hold becomes [UNK]."
        returned = ask(
            answer, text, words, 9, on={KeyError: (case if text == "A Cat" else unknown)}
        )
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise Wrong("Expected two lists, the ids and the mask: return ids, mask.")
        got, got_mask = (tensor(part).long().tolist() for part in returned)
        if got == ids and got_mask == mask:
            continue
        raise Wrong(_wrong_encoding(text, ids, mask, got, got_mask))
    return "[CLS] first, [SEP] last, padding behind it, and the mask knows which is which."


def _wrong_encoding(
    text: str, ids: list[int], mask: list[int], got: list[int], got_mask: list[int]
) -> str:
    core = ids[1 : ids.index(5)]
    if len(got) != len(ids):
        return f"Expected {len(ids)} ids, as the length says; got {len(got)}. Fill up with [PAD]."
    if 11 not in got:
        return "Where is [CLS]? The encoder's answer is read at its place, the first."
    if 5 not in got:
        return "Where is [SEP]? It says where the text ends."
    if got[0] == 7:
        return "You pad on the left. [CLS] must stand first in every row: pad on the right."
    if text == "A Cat" and 3 in got:
        return "'Cat' is not 'cat' to a dictionary: lower-case the text first."
    if 3 in ids and 3 not in got:
        return "An unknown word is dropped in silence. It must become [UNK]."
    if got != ids:
        return f"For {text!r} expected {ids}, the words being {core}; got {got}."
    if got_mask == [1 - m for m in mask]:
        return "Your mask is turned round: 1 stands for a token, 0 for padding."
    if all(got_mask):
        return "Your mask keeps the padding: attention would read [PAD] as if it were a word."
    if 3 in ids and got_mask[ids.index(3)] == 0:
        return "Your mask hides [UNK]. An unknown word is still a word; only padding is hidden."
    return f"For {text!r} expected the mask {mask}; got {got_mask}."


def hear(answer: Callable) -> str:
    """01.3: ``hear(sounds)`` of (n, samples) at 8,000 a second gives the digits."""
    digits = torch.arange(10)
    got = tensor(ask(answer, tones(digits, noise=0.0)))
    if got.shape == (10, 2):
        raise Wrong("You return two frequencies a sound. Look the pair up: which digit has it?")
    if got.shape != (10,):
        raise Wrong(f"Expected one digit a sound, shape (10,); got {tuple(got.shape)}.")
    if len(got.unique()) == 1:
        raise Wrong(
            "Every sound is the same digit to you. Did you take the bin's number for its "
            "frequency? Bin i stands for i × 8000 / samples hertz."
        )
    if same(got, (digits - 1) % 10) or same(got, torch.where(digits == 0, 10, digits) - 1.0):
        raise Wrong("You number the keys from zero. The first key is the digit 1; zero comes last.")
    if not same(got, digits):
        heard = {int(d): int(g) for d, g in zip(digits, got, strict=True) if d != g}
        raise Wrong(f"Without any noise you hear (digit: heard) {heard}.")
    short = tensor(ask(answer, tones(digits, noise=0.0, seconds=0.2)))
    if not same(short, digits):
        raise Wrong(
            "Tones of 0.1 s are right, tones of 0.2 s are not. The width of a bin depends on "
            "the length: it is 8000 / samples hertz."
        )
    many = digits.repeat(40)
    faint = tensor(ask(answer, tones(many, seed=1, seconds=0.05, noise=0.6)))
    right = float((faint == many).float().mean())
    if right < 0.99:
        raise Wrong(
            f"Clean tones are right, short and noisy ones only {right:.0%}. The two largest bins "
            "may belong to one peak: look for the largest below 1,000 Hz and for the largest above."
        )
    return "Four hundred short and noisy tones, and hardly one misheard."


def _entropy(values: Sequence) -> float:
    """Entropy in bits of how often each value occurs."""
    n = len(values)
    return -sum(c / n * math.log2(c / n) for c in Counter(values).values())


def remaining_bits(answer: Callable) -> str:
    """01.4: ``remaining_bits(values, captions)``: H(value | caption)."""
    values = ["red", "red", "blue", "blue", "red", "red", "blue", "grey", "grey", "grey", "grey"]
    captions = ["one"] * 6 + ["two"] * 2 + ["three"] * 3
    joint = _entropy(list(zip(values, captions, strict=True)))
    right = joint - _entropy(captions)
    got = number(ask(answer, values, captions))
    groups = [[v for v, c in zip(values, captions, strict=True) if c == k] for k in set(captions)]
    hint = first_hint(
        got,
        {
            "That is in nats: use log2 for bits.": right * math.log(2),
            "You average over the different captions. A caption that more pictures carry counts "
            "more: weight it by how often it occurs.": sum(map(_entropy, groups)) / len(groups),
            "You add up the captions' entropies. Weight each by how often it occurs.": sum(
                map(_entropy, groups)
            ),
            "You ask the wrong way round: what the value leaves open about the caption.": joint
            - _entropy(values),
            "That is what the caption tells. Asked is what it leaves open.": _entropy(values)
            - right,
            "That is the entropy before the caption is read.": _entropy(values),
            "That is the entropy of value and caption together. Take away the caption's.": joint,
            "The sign is turned round: logarithms of probabilities are negative.": -right,
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For the example expected {right:.3f} bits; got {got:.3f}.")
    nothing = number(ask(answer, ["a", "b", "c"], ["x", "y", "z"]))
    if not same(nothing, 0):
        raise Wrong(f"Three captions that each settle the value leave 0 bits; you say {nothing}.")
    return "A caption's worth is what it leaves open, weighted by how often it is read."


def floor(answer: Callable) -> str:
    """01.5: ``floor(captions)``: the mean of ln n over the pictures of a batch."""
    captions = ["a cat"] * 5 + ["a dog"] * 2 + ["a frog"]
    copies = Counter(captions)
    right = sum(math.log(copies[c]) for c in captions) / len(captions)
    got = number(ask(answer, captions, on={ValueError: "Does a caption that occurs once count 1?"}))
    hint = first_hint(
        got,
        {
            "You average over the different captions. Each picture is a row of the loss: a "
            "caption that five pictures share counts five times.": sum(
                map(math.log, copies.values())
            )
            / len(copies),
            "That is in bits. The losses of this book use the natural logarithm.": right
            / math.log(2),
            "You take the logarithm of the mean. Each row has its own logarithm; average "
            "afterwards.": math.log(sum(copies[c] for c in captions) / len(captions)),
            "That is the sum over the batch; the loss is a mean.": right * len(captions),
            "That is the number of captions per picture, not its logarithm.": sum(
                copies[c] for c in captions
            )
            / len(captions),
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(f"For 5 cats, 2 dogs and a frog expected {right:.4f}; got {got:.4f}.")
    alone = number(ask(answer, ["a", "b"]))
    if not same(alone, 0):
        raise Wrong(f"Where all captions differ the floor is ln 1 = 0; you say {alone}.")
    return "Equal captions set a floor; different ones set none."


def brightness(answer: Callable) -> str:
    """01.6: ``brightness(images, strength, generator)``, a factor of its own for each picture."""
    images = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 0.4 + 0.1

    def view(seed: int, strength: float = 0.5) -> Float64[Tensor, "..."]:
        return tensor(ask(answer, images, strength, torch.Generator().manual_seed(seed)))

    got = view(0)
    if got.shape != images.shape:
        raise Wrong(f"Expected views of shape {tuple(images.shape)}; got {tuple(got.shape)}.")
    ratio = (got / images).flatten(1)  # (200, 48); nothing is clipped: 1.5 × 0.5 < 1
    low, high = float(ratio.min()), float(ratio.max())
    if (ratio.amax(1) - ratio.amin(1)).max() > 1e-3:
        raise Wrong(
            "The pixels of one picture change by different factors: that is noise. Draw one "
            "number a picture, of shape (b, 1, 1, 1)."
        )
    if high - low < 1e-3:
        raise Wrong("All pictures of the batch share one factor. Each must draw its own.")
    if not same(view(0), got):
        raise Wrong("The same generator state gives other views: pass generator= to torch.rand.")
    if same(view(1), got):
        raise Wrong("Another generator gives the same views: do not seed inside the function.")
    if low < 0.499 or high > 1.501:
        raise Wrong(
            f"For strength 0.5 factors lie in 0.5 … 1.5; yours reach {low:.2f} … {high:.2f}."
        )
    if low > 0.7 or high < 1.3:
        raise Wrong(
            f"Your factors run from {low:.2f} to {high:.2f}. They should reach from 1 - strength "
            "to 1 + strength, evenly."
        )
    wild = view(0, 3.0)  # factors from -2 to 4
    if wild.min() < 0 or wild.max() > 1:
        raise Wrong("Some pixels leave [0, 1]. Clamp the result: the next step expects a picture.")
    return "Each picture draws its own, and stays a picture."


EXERCISES: dict[str, Exercise] = {
    "01.1": caption,
    "01.2": encode,
    "01.3": hear,
    "01.4": remaining_bits,
    "01.5": floor,
    "01.6": brightness,
}
