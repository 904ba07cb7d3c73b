"""The exercises of chapter 0, the quickstart."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.nn import functional as F

from cmssf_lib.check.answers import Exercise, Wrong, ask, first_hint, number, same, tensor


def cosine(answer: Callable) -> str:
    """00.1: ``cosine(a, b)`` of (n, d) and (m, d) gives (n, m)."""
    random = torch.Generator().manual_seed(1)
    a, b = 3 * torch.randn(4, 4, generator=random), torch.randn(4, 4, generator=random)
    got = tensor(ask(answer, a, b))
    right = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    if got.shape == (4,):
        raise Wrong(
            "You compare row i of a with row i of b only. Every row of a meets every row of b: "
            "the result is (n, m), as the product a @ b.T is."
        )
    if got.ndim != 2:
        raise Wrong(f"Expected shape (n, m) = (4, 4); got {tuple(got.shape)}.")
    hint = first_hint(
        got,
        {
            "These are dot products: a vector twice as long looks twice as similar. Divide every "
            "row by its length first.": a @ b.T,
            "You normalised a and left b as it was; both must have length one.": F.normalize(
                a, dim=1
            )
            @ b.T,
            "You normalised b and left a as it was; both must have length one.": a
            @ F.normalize(b, dim=1).T,
            "You divided columns by their lengths. A vector is a row here: normalise along "
            "dim=1.": F.normalize(a, dim=0) @ F.normalize(b, dim=0).T,
            "The result is turned round: rows belong to a, columns to b.": right.T,
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, right):
        raise Wrong(
            "The values differ from the cosines. Check one by hand: for (3, 4) and (4, 3) it is "
            "24 / 25 = 0.96."
        )
    fewer = tensor(ask(answer, a, b[:2]))
    if not same(fewer, right[:, :2]):
        raise Wrong(f"For 4 and 2 rows expected shape (4, 2); got {tuple(fewer.shape)}.")
    return "Lengths do not matter, directions do, and every row of a met every row of b."


def zero_shot(answer: Callable) -> str:
    """00.2: ``zero_shot(image, prompts)`` of (n, d) and (c, d) gives the class of each picture."""
    random = torch.Generator().manual_seed(2)
    prompts = F.normalize(torch.randn(3, 6, generator=random), dim=1)
    truth = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    image = prompts[truth] + 0.2 * torch.randn(7, 6, generator=random)
    prompts = prompts * torch.tensor([1.0, 1.0, 9.0])[:, None]  # one long prompt
    got = tensor(ask(answer, image, prompts))
    if got.shape == (7, 3):
        raise Wrong(
            "You return a similarity for every class. The answer is the class itself: the place "
            "of the largest one, argmax(dim=1)."
        )
    if got.shape == (3,):
        raise Wrong(
            "You found the best picture for each prompt. Asked is the best prompt for each "
            "picture: take the argmax along the prompts, dim=1."
        )
    if got.shape != (7,):
        raise Wrong(f"Expected one class a picture, shape (7,); got {tuple(got.shape)}.")
    hint = first_hint(
        got,
        {
            "A long prompt wins whatever the picture shows. Compare directions: normalise the "
            "prompts, or use your cosine.": (image @ prompts.T).argmax(dim=1),
            "You picked the least similar prompt. Similarity is large where things are alike: "
            "argmax, not argmin.": (image @ F.normalize(prompts, dim=1).T).argmin(dim=1),
            "Your classes count from one; places in a tensor count from zero.": truth + 1,
        },
    )
    if hint:
        raise Wrong(hint)
    if not same(got, truth):
        raise Wrong("Some pictures get a prompt that is not their most similar one.")
    return "Zero-shot classification is a search among captions: argmax over the prompts."


def recall_at_k(answer: Callable) -> str:
    """00.3: ``recall_at_k(ranked, own, k)`` from the classes of ranked answers, (q, m)."""
    # Six queries, chosen so that no misconception gives the right number by accident.
    ranked = torch.tensor(
        [
            [1, 1, 0, 2, 2, 2],
            [1, 1, 1, 2, 0, 1],
            [0, 0, 1, 2, 0, 0],
            [2, 0, 1, 0, 0, 0],
            [1, 2, 1, 0, 0, 2],
            [2, 0, 0, 0, 1, 0],
        ]
    )
    own = torch.tensor([0, 2, 2, 2, 1, 2])
    hits = ranked == own[:, None]  # (q, m)

    def recall(k: int) -> float:
        return float(hits[:, :k].any(dim=1).float().mean())

    for k in (3, 1, 2, 6):
        got = number(ask(answer, ranked, own, k))
        if same(got, recall(k)):
            continue
        hint = first_hint(
            got,
            {
                "That is precision: the share of right answers among the first k. Recall at k "
                "asks whether there is any.": hits[:, :k].float().mean(),
                "You look at place k alone. The first k places all count.": hits[:, k - 1]
                .float()
                .mean(),
                "You look at one answer too many: ranked[:, :k] ends before place k.": recall(
                    k + 1
                ),
                "You look at one answer too few: ranked[:, :k] holds k of them.": recall(k - 1)
                if k > 1
                else -1.0,
                "You count queries. Divide by how many there are.": len(own) * recall(k),
                "That is a percentage; expected a share between 0 and 1.": 100 * recall(k),
                "You count every right answer. A query counts once, however many of its answers "
                "are right.": hits[:, :k].float().sum() / len(own),
            },
        )
        raise Wrong(hint or f"R@{k} of the example is {recall(k):.2f}; you get {got:.2f}.")
    return "One right answer among the first k is enough, and a second adds nothing."


def ceiling(answer: Callable) -> str:
    """00.4: ``ceiling(captions, k)``: the best R@k of finding one's very own caption."""
    captions = ["a red one"] * 5 + ["a blue two"] * 2 + ["a red two"] * 2 + ["a grey three"]
    copies = Counter(captions)

    def best(k: int) -> float:
        return sum(min(1.0, k / copies[c]) for c in captions) / len(captions)

    for k in (3, 1, 2, 20):
        got = number(ask(answer, captions, k))
        if same(got, best(k)):
            continue
        unique = [min(1.0, k / n) for n in copies.values()]
        hint = first_hint(
            got,
            {
                "You average over the different captions. R@k is a mean over pictures: a caption "
                "that five pictures share counts five times.": sum(unique) / len(unique),
                "A probability above one: where k exceeds the number of copies the caption is "
                "found for sure. Take min(1, k / n).": sum(k / copies[c] for c in captions)
                / len(captions),
                "You treat every caption as if it were everybody's: k over the size of the "
                "gallery is chance, not the ceiling.": min(1.0, k / len(captions)),
                "Your ceiling does not depend on k.": best(1),
                "You count a picture as found for sure, or not at all. Among n equal captions "
                "the own one is among the first k with probability k / n.": sum(
                    copies[c] <= k for c in captions
                )
                / len(captions),
            },
        )
        raise Wrong(hint or f"For k = {k} the ceiling is {best(k):.3f}; you get {got:.3f}.")
    return "No model passes this line: equal captions cannot be told apart."


EXERCISES: dict[str, Exercise] = {
    "00.1": cosine,
    "00.2": zero_shot,
    "00.3": recall_at_k,
    "00.4": ceiling,
}
