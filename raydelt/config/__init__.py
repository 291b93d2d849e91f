"""The spec of a run: one file for each section, `RunConfig` for all of them."""

from raydelt.config.cluster import Actors, Cluster
from raydelt.config.corpus import Corpus, HeldOut, LabelNoise
from raydelt.config.label import Label, Stop
from raydelt.config.model import Encoder, ModelSpec, Recipe
from raydelt.config.order import ORDER_DEFAULTS, ORDERS, Order
from raydelt.config.plan import Planning, Probes
from raydelt.config.rank import Combine, Dynamic, Exclusion, Gate, Rank, Refine
from raydelt.config.run import Report, RunConfig
from raydelt.config.section import Fraction, Positive, Section
from raydelt.config.select import Quotas, Sample, Select, Strata
from raydelt.config.train import EarlyStop, Lora, Track, Train
from raydelt.config.tune import Axis, Range, Tune

__all__ = [
    "ORDERS",
    "ORDER_DEFAULTS",
    "Actors",
    "Axis",
    "Cluster",
    "Combine",
    "Corpus",
    "Dynamic",
    "EarlyStop",
    "Encoder",
    "Exclusion",
    "Fraction",
    "Gate",
    "HeldOut",
    "Label",
    "LabelNoise",
    "Lora",
    "ModelSpec",
    "Order",
    "Planning",
    "Positive",
    "Probes",
    "Quotas",
    "Range",
    "Rank",
    "Recipe",
    "Refine",
    "Report",
    "RunConfig",
    "Sample",
    "Section",
    "Select",
    "Stop",
    "Strata",
    "Track",
    "Train",
    "Tune",
]
