"""Chapters 0 and 1: solutions, and typical wrong answers with the hint that each must get."""

import math
from collections import Counter

import torch
from torch.nn import functional as F

from cmssf_lib.data.scenes import DTMF_HERTZ

# --- solutions, as short as one would write them ---


def cosine(a, b):
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def zero_shot(image, prompts):
    return cosine(image, prompts).argmax(dim=1)


def recall_at_k(ranked, own, k):
    return (ranked[:, :k] == own[:, None]).any(dim=1).float().mean()


def ceiling(captions, k):
    copies = Counter(captions)
    return sum(min(1, k / copies[c]) for c in captions) / len(captions)


def caption(name, template):
    words = name.replace("_", " ")
    article = "an" if words[0] in "aeiou" else "a"
    return template.format(f"{article} {words}")


def encode(text, vocabulary, length):
    words = text.lower().split()
    ids = [vocabulary.get(word, vocabulary["[UNK]"]) for word in words]
    ids = [vocabulary["[CLS]"], *ids, vocabulary["[SEP]"]]
    padding = length - len(ids)
    return ids + [vocabulary["[PAD]"]] * padding, [1] * len(ids) + [0] * padding


def hear(sounds):
    samples = sounds.shape[1]
    strength = torch.fft.rfft(sounds).abs()
    hertz = torch.arange(strength.shape[1]) * 8000 / samples
    low = hertz[(strength * (hertz < 1000)).argmax(dim=1)]
    high = hertz[(strength * (hertz >= 1000)).argmax(dim=1)]
    heard = torch.stack([low, high], dim=1)  # (n, 2)
    return torch.cdist(heard, torch.tensor(DTMF_HERTZ).float()).argmin(dim=1)


def remaining_bits(values, captions):
    def bits(items):
        shares = [count / len(items) for count in Counter(items).values()]
        return -sum(p * math.log2(p) for p in shares)

    return bits(list(zip(values, captions, strict=True))) - bits(captions)


def floor(captions):
    copies = Counter(captions)
    return sum(math.log(copies[c]) for c in captions) / len(captions)


def brightness(images, strength, generator):
    draw = torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images * (1 + strength * (2 * draw - 1))).clamp(0, 1)


SOLUTIONS = {
    "00.1": cosine,
    "00.2": zero_shot,
    "00.3": recall_at_k,
    "00.4": ceiling,
    "01.1": caption,
    "01.2": encode,
    "01.3": hear,
    "01.4": remaining_bits,
    "01.5": floor,
    "01.6": brightness,
}


# --- what goes wrong, and what is said to it ---


def bits(items, log=math.log2):
    return -sum(n / len(items) * log(n / len(items)) for n in Counter(items).values())


def by_caption(values, captions):
    return [[v for v, c in zip(values, captions, strict=True) if c == k] for k in set(captions)]


def top_two(sounds):
    """The two largest bins, wherever they are."""
    hertz = torch.fft.rfft(sounds).abs().topk(2, dim=1).indices * 8000 / sounds.shape[1]
    heard = hertz.sort(dim=1).values
    return torch.cdist(heard, torch.tensor(DTMF_HERTZ).float()).argmin(dim=1)


def bin_numbers(sounds):
    heard = torch.fft.rfft(sounds).abs().topk(2, dim=1).indices.sort(dim=1).values.float()
    return torch.cdist(heard, torch.tensor(DTMF_HERTZ).float()).argmin(dim=1)


def fixed_length(sounds):
    strength = torch.fft.rfft(sounds).abs()
    hertz = torch.arange(strength.shape[1]) * 10.0
    low = hertz[(strength * (hertz < 1000)).argmax(dim=1)]
    high = hertz[(strength * (hertz >= 1000)).argmax(dim=1)]
    return torch.cdist(torch.stack([low, high], dim=1), torch.tensor(DTMF_HERTZ).float()).argmin(
        dim=1
    )


def in_place(a, b):
    a /= a.norm(dim=1, keepdim=True)
    return a @ F.normalize(b, dim=1).T


def encode_with(change):
    """The solution, its ids and mask changed afterwards."""
    return lambda text, vocabulary, length: change(*encode(text, vocabulary, length))


def lower(vocabulary):
    return {**vocabulary, "[unk]": vocabulary["[UNK]"]}


def with_factor(draw, clamp=True):
    def view(images, strength, generator):
        out = images * draw(images, strength, generator)
        return out.clamp(0, 1) if clamp else out

    return view


def rand(*shape, generator=None):
    return 2 * torch.rand(*shape, generator=generator) - 1


WRONG = {
    "rows with rows only": ("00.1", F.cosine_similarity, "Every row of a meets every row of b"),
    "dot products": ("00.1", lambda a, b: a @ b.T, "twice as long"),
    "only a": ("00.1", lambda a, b: F.normalize(a, dim=1) @ b.T, "left b as it was"),
    "only b": ("00.1", lambda a, b: a @ F.normalize(b, dim=1).T, "left a as it was"),
    "columns": ("00.1", lambda a, b: F.normalize(a, dim=0) @ F.normalize(b, dim=0).T, "dim=1"),
    "transposed": ("00.1", lambda a, b: cosine(a, b).T, "turned round"),
    "angles": ("00.1", lambda a, b: cosine(a, b).acos(), "0.96"),
    "changes its input": ("00.1", in_place, "changes the tensor that it is given"),
    "similarities": ("00.2", cosine, "the place of the largest"),
    "best picture": ("00.2", lambda i, p: cosine(i, p).argmax(dim=0), "along the prompts"),
    "long prompts": ("00.2", lambda i, p: (i @ p.T).argmax(dim=1), "A long prompt wins"),
    "least similar": ("00.2", lambda i, p: cosine(i, p).argmin(dim=1), "not argmin"),
    "from one": ("00.2", lambda i, p: zero_shot(i, p) + 1, "count from zero"),
    "precision": ("00.3", lambda r, o, k: (r[:, :k] == o[:, None]).float().mean(), "precision"),
    "place k": ("00.3", lambda r, o, k: (r[:, k - 1] == o).float().mean(), "place k alone"),
    "k + 1": ("00.3", lambda r, o, k: recall_at_k(r, o, k + 1), "one answer too many"),
    "k - 1": ("00.3", lambda r, o, k: recall_at_k(r, o, k - 1), "one answer too few"),
    "a count": ("00.3", lambda r, o, k: len(o) * recall_at_k(r, o, k), "Divide by how many"),
    "per cent": ("00.3", lambda r, o, k: 100 * recall_at_k(r, o, k), "between 0 and 1"),
    "counts twice": (
        "00.3",
        lambda r, o, k: (r[:, :k] == o[:, None]).sum() / len(o),
        "A query counts once",
    ),
    "different captions": (
        "00.4",
        lambda c, k: sum(min(1, k / n) for n in Counter(c).values()) / len(Counter(c)),
        "mean over pictures",
    ),
    "above one": (
        "00.4",
        lambda c, k: sum(k / Counter(c)[x] for x in c) / len(c),
        r"min\(1, k / n\)",
    ),
    "chance": ("00.4", lambda c, k: min(1, k / len(c)), "chance, not the ceiling"),
    "k forgotten": ("00.4", lambda c, k: ceiling(c, 1), "does not depend on k"),
    "all or nothing": (
        "00.4",
        lambda c, k: sum(Counter(c)[x] <= k for x in c) / len(c),
        "with probability k / n",
    ),
    "always a": (
        "01.1",
        lambda n, t: t.format("a " + n.replace("_", " ")),
        "Your captions say 'a automobile'",
    ),
    "always an": (
        "01.1",
        lambda n, t: t.format("an " + n.replace("_", " ")),
        "Your captions say 'an truck'",
    ),
    "underscores": (
        "01.1",
        lambda n, t: t.format(("an " if n[0] in "aeiou" else "a ") + n),
        "underscores",
    ),
    "own template": ("01.1", lambda n, t: caption(n, "a photo of {}"), "does not use the template"),
    "no article": ("01.1", lambda n, t: t.format(n.replace("_", " ")), "article is missing"),
    "template not filled": ("01.1", lambda n, t: t, "still empty"),
    "not a text": ("01.1", lambda n, t: [n, t], "Expected a text"),
    "no [CLS]": ("01.2", encode_with(lambda i, m: ([*i[1:], 7], m)), r"Where is \[CLS\]"),
    "no [SEP]": (
        "01.2",
        encode_with(lambda i, m: ([7 if x == 5 else x for x in i], m)),
        r"Where is \[SEP\]",
    ),
    "no padding": ("01.2", encode_with(lambda i, m: (i[: sum(m)], m[: sum(m)])), "Fill up"),
    "padding on the left": (
        "01.2",
        encode_with(lambda i, m: (i[sum(m) :] + i[: sum(m)], m[sum(m) :] + m[: sum(m)])),
        "pad on the right",
    ),
    "mask turned round": (
        "01.2",
        encode_with(lambda i, m: (i, [1 - x for x in m])),
        "turned round",
    ),
    "mask of ones": ("01.2", encode_with(lambda i, m: (i, [1] * len(m))), "keeps the padding"),
    "mask hides the unknown": (
        "01.2",
        encode_with(lambda i, m: (i, [int(x not in (3, 7)) for x in i])),
        r"hides \[UNK\]",
    ),
    "no mask": ("01.2", encode_with(lambda i, m: i), "return ids, mask"),
    "capitals": (
        "01.2",
        lambda t, v, n: encode(" ".join(w if w in v else "[UNK]" for w in t.split()), lower(v), n),
        "lower-case the text",
    ),
    "capitals are keys": (
        "01.2",
        lambda t, v, n: [v[w] for w in t.split()] and encode(t, v, n),
        "Is the text lower-cased",
    ),
    "unknown word is an error": (
        "01.2",
        lambda t, v, n: [v[w] for w in t.lower().split()] and encode(t, v, n),
        r"becomes \[UNK\]",
    ),
    "unknown word dropped": (
        "01.2",
        lambda t, v, n: encode(" ".join(w for w in t.lower().split() if w in v), v, n),
        "dropped in silence",
    ),
    "frequencies": (
        "01.3",
        lambda s: torch.tensor(DTMF_HERTZ)[hear(s)],
        "Look the pair up",
    ),
    "bins for hertz": ("01.3", bin_numbers, "Bin i stands for"),
    "keys from zero": ("01.3", lambda s: (hear(s) - 1) % 10, "zero comes last"),
    "one length": ("01.3", fixed_length, "width of a bin"),
    "the two largest bins": ("01.3", top_two, "one peak"),
    "one digit for all": ("01.3", lambda s: int(hear(s)[0]), "one digit a sound"),
    "nats": ("01.4", lambda v, c: remaining_bits(v, c) * math.log(2), "log2 for bits"),
    "each caption once": (
        "01.4",
        lambda v, c: sum(map(bits, by_caption(v, c))) / len(set(c)),
        "weight it by how often",
    ),
    "added up": ("01.4", lambda v, c: sum(map(bits, by_caption(v, c))), "Weight each"),
    "wrong way round": ("01.4", lambda v, c: remaining_bits(c, v), "wrong way round"),
    "what it tells": ("01.4", lambda v, c: bits(v) - remaining_bits(v, c), "what it leaves open"),
    "before": ("01.4", lambda v, c: bits(v), "before the caption is read"),
    "joint": ("01.4", lambda v, c: bits(list(zip(v, c, strict=True))), "Take away the caption's"),
    "sign": ("01.4", lambda v, c: -remaining_bits(v, c), "sign is turned round"),
    "floor of the captions": (
        "01.5",
        lambda c: sum(map(math.log, Counter(c).values())) / len(Counter(c)),
        "counts five times",
    ),
    "floor in bits": ("01.5", lambda c: floor(c) / math.log(2), "natural logarithm"),
    "logarithm of the mean": (
        "01.5",
        lambda c: math.log(sum(Counter(c)[x] for x in c) / len(c)),
        "average afterwards",
    ),
    "sum": ("01.5", lambda c: floor(c) * len(c), "the loss is a mean"),
    "the others only": (
        "01.5",
        lambda c: sum(math.log(Counter(c)[x] - 1) for x in c) / len(c),
        "Does a caption that occurs once count 1",
    ),
    "not a number": ("01.5", lambda c: Counter(c), "Expected one number; got Counter"),
    "one factor for all": (
        "01.6",
        with_factor(lambda i, s, g: 1 + s * rand(1, generator=g)),
        "share one factor",
    ),
    "noise": (
        "01.6",
        with_factor(lambda i, s, g: 1 + s * rand(*i.shape, generator=g)),
        "that is noise",
    ),
    "generator unused": (
        "01.6",
        with_factor(lambda i, s, g: 1 + s * rand(len(i), 1, 1, 1)),
        "pass generator=",
    ),
    "seeded inside": (
        "01.6",
        with_factor(
            lambda i, s, g: (
                1 + s * rand(len(i), 1, 1, 1, generator=torch.Generator().manual_seed(0))
            )
        ),
        "do not seed inside",
    ),
    "darker only": (
        "01.6",
        with_factor(lambda i, s, g: 1 - s * torch.rand(len(i), 1, 1, 1, generator=g)),
        "evenly",
    ),
    "too far": (
        "01.6",
        with_factor(lambda i, s, g: 1 + 2 * s * rand(len(i), 1, 1, 1, generator=g)),
        "factors lie in 0.5",
    ),
    "not clamped": (
        "01.6",
        with_factor(lambda i, s, g: 1 + s * rand(len(i), 1, 1, 1, generator=g), clamp=False),
        "leave \\[0, 1\\]",
    ),
}
