"""The exercises of chapter 0, the quickstart."""

from collections import Counter

import torch
from torch.nn import functional as F

from cmssf_lib.check.answers import Answer, ask, compare, normal, tensor


def cosine(answer: Answer) -> str:
    """00.1: ``cosine(a, b)`` of (n, d) and (m, d) gives (n, m)."""
    draw = normal(1)
    a, b = 3 * draw(4, 4), draw(4, 4)
    unit_a, unit_b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    right = unit_a @ unit_b.T
    got = tensor(ask(answer, a, b))
    columns = F.normalize(a, dim=0) @ F.normalize(b, dim=0).T
    hints = {
        "You compare row i of a with row i of b only. Every row of a meets every row of b: the "
        "result is (n, m), as the product a @ b.T is.": got.shape == (4,),
        "These are dot products: a vector twice as long looks twice as similar. Divide every row "
        "by its length first.": a @ b.T,
        "You normalised a and left b as it was; both must have length one.": unit_a @ b.T,
        "You normalised b and left a as it was; both must have length one.": a @ unit_b.T,
        "You divided columns by their lengths. A vector is a row here: normalise "
        "along dim=1.": columns,
        "The result is turned round: rows belong to a, columns to b.": right.T,
    }
    by_hand = (
        "The values differ from the cosines. Check one by hand: for (3, 4) and (4, 3) it is 24 / "
        "25 = 0.96."
    )
    what = "the cosine of every row of a and every row of b, shape"
    compare(got, right, by_hand, hints, what=what)
    compare(ask(answer, a, b[:2]), right[:, :2], by_hand, what=what)
    return "Lengths do not matter, directions do, and every row of a met every row of b."


def zero_shot(answer: Answer) -> str:
    """00.2: ``zero_shot(image, prompts)`` of (n, d) and (c, d) gives the class of each picture."""
    draw = normal(2)
    unit = F.normalize(draw(3, 6), dim=1)
    right = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    image = unit[right] + 0.2 * draw(7, 6)
    prompts = unit * torch.tensor([1.0, 1.0, 9.0])[:, None]  # one long prompt
    got = tensor(ask(answer, image, prompts))
    hints = {
        "You return a similarity for every class. The answer is the class itself: the place of the "
        "largest one, argmax(dim=1).": got.shape == (7, 3),
        "You found the best picture for each prompt. Return the best prompt for each picture: "
        "take the argmax along the prompts, dim=1.": got.shape == (3,),
        "A long prompt wins whatever the picture shows. Compare directions: normalise the prompts, "
        "or use your cosine.": (image @ prompts.T).argmax(dim=1),
        "You picked the least similar prompt. Similarity is large where things are alike: argmax, "
        "not argmin.": (image @ unit.T).argmin(dim=1),
        "Your classes count from one; places in a tensor count from zero.": right + 1,
    }
    otherwise = "Some pictures get a prompt that is not their most similar one."
    compare(got, right, otherwise, hints, what="one class a picture, shape")
    return "Zero-shot classification is a search among captions: argmax over the prompts."


def recall_at_k(answer: Answer) -> str:
    """00.3: ``recall_at_k(ranked, own, k)``; ranked: classes of the ranked answers, (q, m)."""
    # Six queries, chosen so that no misconception gives the right number by chance.
    rows = ("110222", "111201", "001200", "201000", "121002", "200010")
    ranked = torch.tensor([[int(c) for c in row] for row in rows])
    own = torch.tensor([0, 2, 2, 2, 1, 2])
    hits = (ranked == own[:, None]).double()  # (q, m)

    def recall(k: int) -> float:
        return float(hits[:, :k].any(dim=1).double().mean())

    for k in (3, 1, 2, 6):
        hints = {
            "That is precision: the share of right answers among the first k. Recall at k asks "
            "whether there is any.": hits[:, :k].mean(),
            "You look at place k alone. The first k places all count.": hits[:, k - 1].mean(),
            "You look at one answer too many: ranked[:, :k] ends before place k.": recall(k + 1),
            "You look at one answer too few: ranked[:, :k] holds k of them.": recall(k - 1),
            "You count queries. Divide by how many there are.": len(own) * recall(k),
            "That is a percentage; expected a share between 0 and 1.": 100 * recall(k),
            "You count every right answer. A query counts once, however many of its answers are "
            "right.": hits[:, :k].sum() / len(own),
        }
        otherwise = "R@{k} of the example is {right:.2f}; you get {got:.2f}."
        compare(ask(answer, ranked, own, k), recall(k), otherwise, hints, k=k)
    return "One right answer among the first k is enough, and a second adds nothing."


def ceiling(answer: Answer) -> str:
    """00.4: ``ceiling(captions, k)`` is the highest R@k when only the own caption is right."""
    captions = ["a red one"] * 5 + ["a blue two"] * 2 + ["a red two"] * 2 + ["a grey three"]
    copies = Counter(captions)
    own = torch.tensor([copies[c] for c in captions]).double()  # copies of each row's caption
    different = torch.tensor(list(copies.values())).double()
    best = (1 / own).mean()
    for k in (3, 1, 2, 20):
        hints = {
            "You average over the different captions. R@k is a mean over pictures: a caption that "
            "five pictures share counts five times.": (k / different).clamp(max=1).mean(),
            "A probability above one: where k exceeds the number of copies the caption is found "
            "for sure. Take min(1, k / n).": (k / own).mean(),
            "You treat every caption as if it were everybody's: k over the size of the gallery is "
            "chance, not the ceiling.": min(1.0, k / len(captions)),
            "Your ceiling does not depend on k.": best,
            "You count a picture as found for sure, or not at all. Among n equal captions the own "
            "one is among the first k with probability k / n.": (own <= k).double().mean(),
        }
        right = (k / own).clamp(max=1).mean()
        otherwise = "For k = {k} the ceiling is {right:.3f}; you get {got:.3f}."
        compare(ask(answer, captions, k), right, otherwise, hints, k=k)
    return "No model passes this line: equal captions cannot be told apart."


EXERCISES = (cosine, zero_shot, recall_at_k, ceiling)
