"""RunConfig, the spec of a run: sections in the order of the flow, validated, with every unknown key refused."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raydelt.scorers.registry import ScorerSpec, parse_scorer


class Section(BaseModel):
    """A part of the spec: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(ge=1)]


class HeldOut(Section):
    """A split that is set apart: a share of the corpus (by hash of the group), or a source of its own."""

    fraction: Fraction = 0.0
    source: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> HeldOut:
        if self.source is not None and self.fraction > 0:
            raise ValueError("give either `fraction` or `source`, not both")
        return self


class LabelNoise(Section):
    """Simulated noise on the training labels; the truth is kept for the report alone."""

    kind: Literal["label_flip"] = "label_flip"
    fraction: Fraction = 0.1


class Encoder(Section):
    """A sentence encoder whose embeddings stand for documents where scorers compare them."""

    path: str
    max_length: Positive | None = None
    batch_size: Positive = 32


class Corpus(Section):
    """Where the examples come from, which columns matter, and how faults are dealt with.

    `pool` holds examples without labels, which people may be asked for; its labelled ones join the corpus.
    """

    source: str | list[str] = []
    format: Literal["auto", "parquet", "jsonl", "csv", "text", "image", "idx"] = "auto"
    id_column: str | None = None
    group_column: str | None = None
    label_column: str | None = None
    label_from_folder: bool = False
    feature_columns: list[str] | None = None
    image_column: str | None = None
    image_shape: list[Positive] | None = None
    text_column: str | None = None
    text_features: Positive = 1024
    text_unit: Literal["file", "paragraph"] = "file"
    time_column: str | None = None
    classes: list[str] | None = None
    standardize: bool = True
    duplicates: Literal["drop", "keep", "error"] = "drop"
    noise: LabelNoise | None = None
    validation: HeldOut = HeldOut()
    test: HeldOut = HeldOut(fraction=0.2)
    pool: str | None = None
    error_budget: Fraction = 0.05

    @field_validator("classes", mode="before")
    @classmethod
    def _class_names(cls, value: Any) -> Any:
        return [str(name) for name in value] if isinstance(value, list) else value

    @field_validator("classes")
    @classmethod
    def _classes_differ(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (len(set(value)) != len(value) or len(value) < 2):
            raise ValueError("needs at least two different class names")
        return value

    @model_validator(mode="after")
    def _columns_agree(self) -> Corpus:
        given = [name for name in ("feature_columns", "image_column", "text_column") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other: an example has one kind of content")
        if self.label_from_folder and self.label_column:
            raise ValueError("label_from_folder and label_column exclude each other")
        if not self.sources and (self.pool is None or self.classes is None):
            raise ValueError("give `source`, or for a corpus that is labelled from nothing `pool` and `classes`")
        if self.pool is not None and (not self.labelled or self.label_from_folder):
            raise ValueError("a pool is there to be labelled, so the corpus needs labels too: set label_column")
        if self.validation.fraction + self.test.fraction >= 1:
            raise ValueError("validation.fraction and test.fraction leave nothing to train on")
        return self

    @property
    def sources(self) -> list[str]:
        return [self.source] if isinstance(self.source, str) else list(self.source)

    @property
    def labelled(self) -> bool:
        first = (self.sources or [""])[0]
        implied = self.format == "idx" or first.startswith("builtin://") or "idx3" in first
        return self.label_from_folder or self.label_column is not None or implied


class Recipe(Section):
    """How a model is trained: optimiser, batch size, and either epochs or steps.

    The learning rate rises over the first `warm_up` share of the steps, then stays or falls to zero as `schedule` has
    it. `clip` is the largest norm that a step's gradient may have.
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_size: Positive = 32
    epochs: Positive | None = None
    steps: Positive | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warm_up: Fraction = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None

    @field_validator("epochs", "steps", mode="before")
    @classmethod
    def _some_training(cls, value: Any) -> Any:
        if value == 0:
            raise ValueError("0 leaves the model untrained, and scores at initialisation do not reproduce: at least 1")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Recipe:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either `epochs` or `steps`, not both")
        return self

    def total_steps(self, examples: int, *, default_epochs: int = 30) -> int:
        """Optimiser steps for a training set of this many examples."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or default_epochs) * -(-examples // self.batch_size)


class ModelSpec(Section):
    """The model that is trained and that scores: a network by name, the user's own, or a causal language model.

    A factory (`kind: torch`) is called as `factory(input_shape, num_classes)` and returns a `torch.nn.Module` from
    features [B, *input_shape] to logits [B, num_classes]. If the module has a method `fit(x, y)`, that trains it.
    `checkpoint` (a classifier's) and `path` (a language model's folder, URL or hub name) may list several, which then
    all score every example.
    """

    kind: Literal["classifier", "torch", "causal_lm"] = "classifier"
    network: Literal["logistic", "mlp", "cnn"] = "mlp"
    hidden: list[Positive] = [64]
    factory: str | None = None
    checkpoint: str | list[str] | None = None
    path: str | list[str] | None = None
    adapter: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    context: Annotated[int, Field(ge=2)] = 512
    long_documents: Literal["truncate", "split", "quarantine"] = "truncate"
    batching: Literal["padded", "packed"] = "padded"
    answer_after: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _path_goes_with_causal_lm(self) -> ModelSpec:
        if (self.kind == "causal_lm") != bool(self.path):
            raise ValueError("`kind: causal_lm` and `path: folder, URL or hub name` go together")
        if self.kind == "causal_lm" and self.checkpoint is not None:
            raise ValueError("checkpoint is for classifiers: a causal_lm has its weights in `path`")
        return self

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints of a classifier; empty where the spec gives none."""
        return [self.checkpoint] if isinstance(self.checkpoint, str) else list(self.checkpoint or [])

    @property
    def paths(self) -> list[str]:
        """The folders of a language model."""
        return [self.path] if isinstance(self.path, str) else list(self.path or [])

    @model_validator(mode="after")
    def _factory_goes_with_torch(self) -> ModelSpec:
        if (self.kind == "torch") != (self.factory is not None):
            raise ValueError("`kind: torch` and `factory: module:function` go together")
        if self.factory is not None and self.factory.count(":") != 1:
            raise ValueError(f"factory {self.factory!r} must read `module:function`")
        return self


class Gate(Section):
    """Examples whose component lies below the bar rank below all that pass."""

    component: str = "consistency"
    at_least: float = 0.5


class Exclusion(Section):
    """Examples whose component lies above (or below) the bar are never selected, and rank below all others."""

    component: str
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_bar(self) -> Exclusion:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"component {self.component!r} needs one bar: give either `above` or `below`")
        return self


class Dynamic(Section):
    """Weights that follow recent progress: `article` is the step rule, `smooth` the blended one."""

    mode: Literal["article", "smooth"] = "smooth"
    window: Positive = 3
    threshold: float = 0.01
    history: list[float] | None = None


class Combine(Section):
    """How the stored components become one score: weights, normalisation, gate, exclusions, dynamic weights.

    `fusion: sum` adds normalised values; the others go by the components' ranks alone.
    """

    weights: dict[str, Annotated[float, Field(ge=0)]] = {"difficulty": 1.0}
    normalise: Literal["ecdf", "raw", "z", "robust"] = "ecdf"
    fusion: Literal["sum", "reciprocal", "borda", "product"] = "sum"
    gate: Gate | None = Gate()
    exclude: list[Exclusion] = []
    dynamic: Dynamic | None = None

    @model_validator(mode="after")
    def _ranks_need_no_scale(self) -> Combine:
        if self.fusion != "sum" and self.normalise != "ecdf":
            raise ValueError(
                f"fusion {self.fusion} goes by ranks: drop normalise {self.normalise}, or set fusion to sum"
            )
        return self

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or sum(value.values()) <= 0:
            raise ValueError("needs at least one component with a weight above 0")
        return value


class Refine(Section):
    """More rounds of proxies for the examples whose score lies within so many standard errors of the cut."""

    rounds: Positive = 4
    within: Annotated[float, Field(gt=0)] = 1.0


class Rank(Section):
    """Cross-fitting of the proxies (`folding_sort`) or the spec's own checkpoint (`score`), and the combination.

    `extent: kept` ranks only what the selection keeps, for corpora where a rank of every example is not needed.
    """

    method: Literal["folding_sort", "score"] = "folding_sort"
    folds: Annotated[int, Field(ge=2)] = 5
    rounds: Positive = 3
    proxy: Recipe = Recipe()
    max_proxy_examples: Positive = 200_000
    combine: Combine = Combine()
    refine: Refine | None = None
    extent: Literal["all", "kept"] = "all"

    @model_validator(mode="after")
    def _refining_needs_errors(self) -> Rank:
        if self.refine is not None and (self.method != "folding_sort" or self.rounds < 2):
            raise ValueError(
                f"refine asks which scores are uncertain, and method {self.method} with rounds {self.rounds} has no "
                "standard errors: use folding_sort with at least 2 rounds, or drop refine"
            )
        return self


class Quotas(Section):
    """How the kept examples are shared among the classes."""

    share: Literal["proportional", "balanced"] = "proportional"
    at_least: Annotated[int, Field(ge=0)] = 0


class Sample(Section):
    """Draw the examples by chance in place of cutting: the higher the score, the likelier an example is kept.

    The weight of an example is exp(z / temperature), z its score in standard deviations.
    """

    method: Literal["poisson", "priority", "gumbel"]
    temperature: Annotated[float, Field(gt=0)] = 1.0


class Strata(Section):
    """Keep examples of every stratum of the score, the share `hardest` of the highest scores aside (CCS)."""

    count: Positive = 50
    hardest: Fraction = 0.1


class Select(Section):
    """How many of the ranked examples are kept: a share, a number, all above a score, or a number of tokens.

    With `sample` or `strata` that number is not the highest ones.
    """

    method: Literal["ratio", "top_k", "threshold", "token_budget"] = "ratio"
    value: float = 0.3
    quotas: Quotas | None = None
    sample: Sample | None = None
    strata: Strata | None = None

    @model_validator(mode="after")
    def _one_way_to_keep(self) -> Select:
        ways = [name for name in ("quotas", "sample", "strata") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other: keep one")
        if ways and self.method in ("threshold", "token_budget"):
            need = "needs" if ways[0] == "sample" else "need"
            raise ValueError(f"{ways[0]} {need} method ratio or top_k: a {self.method} fixes no number to share")
        return self

    @model_validator(mode="after")
    def _value_fits(self) -> Select:
        if self.method == "ratio" and not 0 < self.value <= 1:
            raise ValueError(f"value {self.value} must lie in (0, 1] when method is ratio, for example 0.3")
        if self.method in ("top_k", "token_budget") and (self.value < 1 or self.value != int(self.value)):
            raise ValueError(f"value {self.value} must be a whole number of at least 1 when method is {self.method}")
        return self


ORDERS = Literal["folding", "zigzag", "segment", "stair", "saw", "sorted", "shuffled"]
# What the authors of each order use (DELT, arXiv 2506.21545; its successors, arXiv 2605.30334).
ORDER_DEFAULTS: dict[str, dict[str, float]] = {
    "folding": {"layers": 3},
    "zigzag": {"layers": 5},
    "segment": {"front": 0.1, "back": 0.1},
    "stair": {"layers": 3, "sections": 2, "reach": 0.225},
    "saw": {"layers": 2, "sections": 3, "reach": 0.075},
}


class Order(Section):
    """The order of the selected examples within an epoch; later epochs repeat it or reshuffle.

    `layers`, `sections` and `reach` are filled in with what the method's authors use, and refused where the method has
    no use for them.
    """

    method: ORDERS = "folding"
    layers: Positive | None = None
    sections: Annotated[int, Field(ge=2)] | None = None
    reach: Annotated[float, Field(gt=0, le=0.5)] | None = None
    front: Fraction | None = None
    back: Fraction | None = None
    window: Positive = 1
    descending: bool = False
    later_epochs: Literal["same", "shuffled"] = "shuffled"

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        method = raw.get("method", "folding")
        if method not in get_args(ORDERS):
            return raw  # the field itself tells what is wrong
        own = ORDER_DEFAULTS.get(method, {})
        for name in ("layers", "sections", "reach", "front", "back"):
            if raw.get(name) is not None and name not in own:
                users = ", ".join(method for method, names in ORDER_DEFAULTS.items() if name in names)
                raise ValueError(f"{name} is for {users}: drop it, or choose one of these methods")
        return raw | {name: value for name, value in own.items() if raw.get(name) is None}

    @model_validator(mode="after")
    def _segments_fit(self) -> Order:
        if (self.front or 0.0) + (self.back or 0.0) > 1:
            raise ValueError("front and back are more than everything: let them add up to at most 1")
        return self


class Lora(Section):
    """Low-rank adapters of a language model learn in place of its weights; `merge` writes the sum as a plain model."""

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"
    merge: bool = True


class EarlyStop(Section):
    """Stop after so many evaluations in a row that improve the loss by less than `least`."""

    patience: Positive = 3
    least: Annotated[float, Field(ge=0)] = 0.0


class Track(Section):
    """Where metrics go besides the console: TensorBoard files in the run directory, an MLflow server or folder."""

    tensorboard: bool = False
    mlflow: str | None = None


class Train(Section):
    """Final training with Ray Train: the selection and its baselines, at equal optimiser steps, over several seeds.

    The global batch is `recipe.batch_size` examples whatever the number of `workers`, which may be a range
    `[least, most]` that follows the cluster. `micro_batch` is the most that a worker takes in one pass.
    """

    workers: Positive | tuple[Positive, Positive] = 1
    parallel: Literal["ddp", "fsdp"] = "ddp"
    precision: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    micro_batch: Positive | None = None
    recipe: Recipe = Recipe()
    lora: Lora | None = None
    baselines: list[Literal["random", "full"]] = ["random", "full"]
    seeds: list[int] = [0, 1, 2, 3, 4]
    evaluate_every: Positive | None = None
    early_stop: EarlyStop | None = None
    keep_best: Positive | None = None
    checkpoint_every: Positive = 200
    max_failures: Annotated[int, Field(ge=0)] = 3
    track: Track = Track()

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: list[int]) -> list[int]:
        if not value or len(set(value)) != len(value):
            raise ValueError("needs at least one seed, each once")
        return value

    def lasting(self) -> dict[str, Any]:
        """What the result depends on: not on how many workers it was computed, nor who watched."""
        return self.model_dump(mode="json", exclude={"workers", "max_failures", "track"})

    @property
    def fewest(self) -> int:
        """The least number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most(self) -> int:
        """The greatest number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @model_validator(mode="after")
    def _workers_fit(self) -> Train:
        if self.fewest > self.most:
            raise ValueError(f"workers {list(cast(tuple[int, int], self.workers))} must be [least, most]")
        if self.most > self.recipe.batch_size:
            raise ValueError(
                f"workers {self.most} is more than recipe.batch_size {self.recipe.batch_size}: "
                "every worker needs at least one row of a batch"
            )
        for name in ("early_stop", "keep_best"):
            if getattr(self, name) is not None and self.evaluate_every is None:
                raise ValueError(f"{name} looks at evaluations: set evaluate_every")
        return self


class Stop(Section):
    """When no more labels are asked for: a budget of them, an accuracy that stands still, a committee that agrees."""

    budget: Positive | None = None
    plateau_rounds: Annotated[int, Field(ge=2)] = 5
    plateau_slope: float = 1e-3
    agreement: Annotated[float, Field(gt=0)] | None = None


class Label(Section):
    """Which examples of `corpus.pool` people are asked about: the most useful, and of these different ones.

    The committee trains on all labels by `recipe`; the `batch` is chosen among `shortlist` times as many. Before there
    are `start` labels, or two of every class, typical examples are asked for. `utility` is one of raydelt's or
    `module:function` in the manner of modAL.
    """

    utility: str = "margin"
    diversify: Literal["badge", "k_center", "k_means_pp", "typical", "random"] | None = "k_means_pp"
    batch: Positive = 50
    shortlist: Positive = 5
    committee: Positive = 3
    recipe: Recipe = Recipe()
    start: Positive = 20
    queue: str | None = None
    stop: Stop = Stop()

    @field_validator("utility")
    @classmethod
    def _known_utility(cls, value: str) -> str:
        known = ("entropy", "margin", "least_confidence", "vote_entropy", "consensus_kl", "bald", "random")
        if value not in known and ":" not in value:
            near = difflib.get_close_matches(value, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}, or `module:function`"
            raise ValueError(f"unknown utility {value!r}: {hint}")
        return value


class Report(Section):
    """The report page."""

    html: bool = True


class Actors(Section):
    """The pool of scoring actors; `batch_bytes` is what the activations of one batch may take in each."""

    min: Positive = 1
    max: Positive | None = None
    num_cpus: Annotated[float, Field(gt=0)] = 0.5
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    batch_bytes: Positive = 512 << 20

    @model_validator(mode="after")
    def _min_below_max(self) -> Actors:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class Cluster(Section):
    """Which Ray to use: `auto` joins the one that RAY_ADDRESS names, else starts one inside this process."""

    address: str = "auto"
    num_cpus: Positive | None = None
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    object_store_bytes: Positive | None = None
    actors: Actors = Actors()


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
    report: Report = Report()
    label: Label = Label()
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
