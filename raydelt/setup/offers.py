"""The scorers that fit a kind of data, with what each costs and when it fails, in one line each.

A line is active or offered as a comment: what is dear or needs more than the spec has is offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["text", "image", "list", "numbers", "language", "vectors"]


@dataclass(frozen=True)
class Offer:
    """A scorer's line in YAML's flow style, what it costs and when it fails, and whether it is active."""

    line: str
    told: str
    active: bool = True
    tasks: tuple[Task, ...] = ()


SHIFT = "{kind: consistency, variants: 5, augment: shift, strength: 2}"
MASK = "{kind: consistency, variants: 5, augment: mask, strength: 0.2}"
NOISE = "{kind: consistency, variants: 5}"
CLASSIFIED: tuple[Task, ...] = ("text", "image", "list", "numbers")
STEADY = "5 passes per model; says nothing where the small change never changes a prediction"
OFFERS = (
    Offer("{kind: difficulty}", "one pass per held-out model; alone it likes wrong labels best", True, CLASSIFIED),
    Offer(SHIFT, STEADY, True, ("image",)),
    Offer(MASK, STEADY, True, ("text",)),
    Offer(NOISE, STEADY, True, ("list", "numbers")),
    Offer(
        "{kind: lm_loss}",
        "one forward pass; low for boilerplate, so no score of quality by itself",
        True,
        ("language",),
    ),
    Offer(
        "{kind: target_alignment, parameters: last_layer}",
        "one forward and backward pass; only as good as the validation split, which says what is wanted",
        True,
        ("language",),
    ),
    Offer("{kind: diversity}", "nearly free; outliers look diverse", True, CLASSIFIED),
    Offer("{kind: diversity}", "nearly free; outliers look diverse", True, ("vectors",)),
    Offer("{kind: typicality}", "compares within clusters; cuts neighbourhoods at their borders", True, ("vectors",)),
    Offer(
        "{kind: near_duplicates, epsilon: 0.05}",
        "compares within clusters; misses copies across a border",
        True,
        ("language", "vectors"),
    ),
    Offer(
        "{kind: grad_norm}", "one pass per model (last layer); wrong labels have long gradients too", True, CLASSIFIED
    ),
    Offer(
        "{kind: grad_norm, parameters: all}",
        "a forward and backward pass; long for odd documents as for useful ones",
        False,
        ("language",),
    ),
    Offer("{kind: near_duplicates}", "compares within clusters; misses copies across a border", False, CLASSIFIED),
    Offer(
        "{kind: dynamics}", "trains on the whole corpus once more per round; coarse with few epochs", False, CLASSIFIED
    ),
    Offer(
        "{kind: self_confidence}",
        "cross-validated logistic regression; finds wrong labels, not useful examples",
        False,
        CLASSIFIED,
    ),
    Offer(
        "{kind: knn_shapley}",
        "validation x rows distances; needs corpus.validation, and is only as good as it",
        False,
        CLASSIFIED,
    ),
    Offer("{kind: lossval}", "ten small models; needs corpus.validation", False, CLASSIFIED),
    Offer(
        "{kind: excess_loss, reference: models/reference}",
        "two forward passes; needs a second model that knows better text",
        False,
        ("language",),
    ),
    Offer(
        "{kind: lqs, steps: 30, interval: 5, annotate: {proxy: 2000}}",
        "hours for a large model; the score closest to what training does, towards the validation split",
        False,
        ("language",),
    ),
)


def offers(task: Task) -> list[Offer]:
    """The scorers for a kind of data, active ones first."""
    fitting = [offer for offer in OFFERS if task in offer.tasks]
    return [offer for offer in fitting if offer.active] + [offer for offer in fitting if not offer.active]
