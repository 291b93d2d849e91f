"""Reading a published plan back: the share that it recommends at a budget, for a run that selects by it.

    share = examples of the recommended buckets / examples of all; everything where selection does not pay

A plan counts for the corpus, scores and ranking that it was made of; another model or recipe is told, not refused,
since a small one may plan for a larger. A plan that was made of a table alone does not know its corpus. Cost: one
file.

Caution: a plan is of the model and recipe that probed; nothing here knows how far that carries.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import xxhash
from pydantic import BaseModel, Field, ValidationError

from raydelt.config import Select
from raydelt.errors import InputError, SpecError
from raydelt.storage import Store, absolute, read_manifest

log = logging.getLogger(__name__)
REFUSED = ("corpus", "score", "rank", "select.quotas")


class Share(BaseModel):
    """A ratio of a plan, as far as it is read back."""

    buckets: int
    share: float


class Advice(BaseModel):
    """A budget of a plan, as far as it is read back."""

    budget: float
    recommended: int
    pays: bool
    verdict: str
    choices: list[Share]


class Document(BaseModel):
    """A plan, as far as it is read back."""

    advice: Annotated[list[Advice], Field(min_length=1)]
    budget_unit: str
    seen_unit: str
    rows: list[int] | None = None
    made_of: dict[str, str] | None = None


@dataclass(frozen=True)
class Chosen:
    """The selection that a plan asks for, the digest of its file, and where the ratio comes from, as plain data.

    Without a plan it is the spec's own, and the rest is None.
    """

    select: Select
    digest: str | None = None
    told: dict[str, Any] | None = None

    @property
    def lasting(self) -> list[Any]:
        """What the selection depends on."""
        return [self.select.lasting(), *([self.digest] if self.digest else [])]


def chosen(select: Select, made_of: Mapping[str, str]) -> Chosen:
    """What the spec asks for, or what its plan recommends for a run with this definition (`stage.definition`).

    Raises:
        InputError: there is no plan, or it belongs to another corpus or ranking.
        SpecError: the plan has not this budget, or several where none is named.
    """
    if select.plan is None:
        return Chosen(select)
    data = _bytes(select.plan)
    plan = _document(select.plan, data)
    _same_ground(select.plan, plan, made_of)
    advice = _advice(select, plan)
    ratio, digest = _ratio(select.plan, plan, advice), xxhash.xxh3_128_hexdigest(data)
    told = {
        "path": select.plan,
        "digest": digest,
        "budget": advice.budget,
        "unit": plan.budget_unit,
        "ratio": ratio,
        "pays": advice.pays,
        "verdict": advice.verdict,
    }
    return Chosen(select.model_copy(update={"value": ratio, "plan": None, "budget": None}), digest, told)


def _bytes(path: str) -> bytes:
    """The bytes of a plan's file, given its path or that of the run directory it lies in."""
    place = absolute(path)
    try:
        if path.endswith(".json"):
            folder, _, name = place.rpartition("/")
            return Store(folder).read_bytes(name)
        store = Store(place)
        manifest = read_manifest(store, "plan")
        if manifest is not None:
            return store.read_bytes(manifest.parts[0].file)
    except OSError as error:
        raise InputError(f"select.plan {path!r} cannot be read ({error}): give a plan's .json file") from error
    raise InputError(f"select.plan {path!r} holds no plan: run `raydelt plan` for it, or give a plan's .json file")


def _document(path: str, data: bytes) -> Document:
    try:
        return Document.model_validate_json(data)
    except ValidationError as error:
        raise InputError(
            f"select.plan {path!r} is no plan: give a file `plan/plan-*.json` of a run, or what `raydelt plan table "
            "--json` printed"
        ) from error


def _same_ground(path: str, plan: Document, made_of: Mapping[str, str]) -> None:
    if plan.made_of is None:
        log.warning("select.plan %r was made of a table and does not say of which corpus", path)
        return
    other = [name for name in made_of if plan.made_of.get(name) != made_of[name]]
    for name in other:
        if name in REFUSED:
            raise InputError(
                f"select.plan {path!r} was made with another `{name}` than this run has: plan again with "
                "`raydelt plan` on this spec, or choose the plan that belongs to it"
            )
    if other:
        log.warning("select.plan %r was made with another %s: its ratio is a guess here", path, " and ".join(other))


def _advice(select: Select, plan: Document) -> Advice:
    """The plan's advice at the budget of the spec."""
    unit, budgets = plan.budget_unit.replace("_", " "), ", ".join(f"{one.budget:g}" for one in plan.advice)
    if select.budget is None and len(plan.advice) > 1:
        raise SpecError(
            f"select.plan {select.plan!r} has {len(plan.advice)} budgets: set select.budget to one of {budgets}"
        )
    wanted = plan.advice[0].budget if select.budget is None else select.budget
    for one in plan.advice:
        if abs(one.budget - wanted) <= 1e-9 * wanted:
            return one
    raise SpecError(f"select.budget {wanted:g} {unit} is not in {select.plan!r}: it has {budgets}; plan for it first")


def _ratio(path: str, plan: Document, advice: Advice) -> float:
    if not advice.pays:
        return 1.0
    if plan.rows is not None:
        return sum(plan.rows[: advice.recommended]) / sum(plan.rows)
    if plan.seen_unit == "tokens":
        raise InputError(
            f"select.plan {path!r} shares out tokens and does not say how many examples its buckets have: plan with "
            "`raydelt plan` on this spec"
        )
    return {choice.buckets: choice.share for choice in advice.choices}[advice.recommended]
