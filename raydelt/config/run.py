"""RunConfig, the spec of a run: sections in the order of the flow, validated, with every unknown key refused."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from raydelt.config.cluster import Cluster
from raydelt.config.corpus import Corpus
from raydelt.config.label import Label
from raydelt.config.model import Encoder, ModelSpec
from raydelt.config.monitor import Monitor
from raydelt.config.order import Order
from raydelt.config.plan import Planning
from raydelt.config.rank import Rank
from raydelt.config.rescore import Rescore
from raydelt.config.section import Section
from raydelt.config.select import Select
from raydelt.config.train import Train
from raydelt.config.tune import Tune
from raydelt.scorers.registry import ScorerSpec, parse_scorer


class Report(Section):
    """The report page."""

    html: bool = True


class RunConfig(Section):
    """The whole spec of a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: int = 7
    corpus: Corpus
    model: ModelSpec = ModelSpec()
    encoder: Encoder | None = None
    score: list[ScorerSpec] = [
        parse_scorer({"kind": kind}) for kind in ("difficulty", "consistency", "diversity", "grad_norm")
    ]
    rank: Rank = Rank()
    select: Select = Select()
    order: Order = Order()
    train: Train = Train()
    tune: Tune = Tune()
    report: Report = Report()
    label: Label = Label()
    plan: Planning = Planning()
    rescore: Rescore = Rescore()
    monitor: Monitor = Monitor()
    output: str
    cluster: Cluster = Cluster()

    @model_validator(mode="before")
    @classmethod
    def _target_is_the_validation_split(cls, raw: Any) -> Any:
        """The `target: path` of lqs is the source of the validation split: a run has one target set."""
        if not isinstance(raw, dict) or not isinstance(raw.get("score"), list):
            return raw
        own = [spec for spec in raw["score"] if isinstance(spec, dict) and spec.get("kind") == "lqs"]
        paths = {spec["target"] for spec in own if _is_path(spec.get("target"))}
        corpus = raw.get("corpus")
        if not paths or not isinstance(corpus, dict):
            return raw
        held = corpus.get("validation") or {"source": min(paths)}
        if {held.get("source")} != paths:
            raise ValueError(
                f"score.lqs.target {', '.join(sorted(paths))} and corpus.validation {held} differ: a run has one "
                "target set, so give one of them"
            )
        return raw | {"corpus": corpus | {"validation": held}}

    @field_validator("score")
    @classmethod
    def _scorers_differ(cls, value: list[ScorerSpec]) -> list[ScorerSpec]:
        columns = [column for spec in value for column in spec.build().columns]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if not value or twice:
            raise ValueError(f"needs at least one scorer, and no column twice (twice: {', '.join(twice) or 'none'})")
        return value

    @model_validator(mode="after")
    def _components_exist(self) -> RunConfig:
        columns = [column for spec in self.score for column in spec.build().columns]
        wanted = {f"rank.combine.weights.{name}": name for name in self.rank.combine.weights}
        if self.rank.combine.gate is not None:
            wanted["rank.combine.gate.component"] = self.rank.combine.gate.component
        for index, exclusion in enumerate(self.rank.combine.exclude):
            wanted[f"rank.combine.exclude.{index}.component"] = exclusion.component
        for field, name in wanted.items():
            if name not in columns:
                near = difflib.get_close_matches(name, columns, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"the scorers give {', '.join(columns)}"
                raise ValueError(f"{field}: no scorer of this spec gives the component {name!r}: {hint}")
        return self

    @model_validator(mode="after")
    def _refining_needs_a_cut(self) -> RunConfig:
        ways = [name for name in ("sample", "strata") if getattr(self.select, name) is not None]
        if self.rank.refine is not None and ways:
            raise ValueError(f"rank.refine looks at the cut, and select.{ways[0]} has none: drop one of them")
        return self

    @model_validator(mode="after")
    def _a_token_budget_needs_tokens(self) -> RunConfig:
        if self.select.method == "token_budget" and self.model.kind != "causal_lm":
            raise ValueError(
                f"select.method token_budget counts tokens, and model.kind {self.model.kind} has none: "
                "use ratio or top_k, or a causal_lm"
            )
        return self

    def resolved(self) -> dict[str, Any]:
        """The spec with every default filled in, as plain data."""
        return self.model_dump(mode="json")


def _is_path(target: Any) -> bool:
    return isinstance(target, str) and target != "validation"
