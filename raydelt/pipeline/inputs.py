"""What identifies the inputs of stages, and what stands of the stages before one."""

from __future__ import annotations

import logging
from typing import Any

from raydelt.pipeline.run import Run
from raydelt.plan import stage as planning
from raydelt.plan.chosen import Chosen, chosen
from raydelt.report.wording import planned
from raydelt.scorers.before import Before
from raydelt.select import resting
from raydelt.storage import Manifest

log = logging.getLogger(__name__)
BESIDE = ("tokens", "embeddings", "neighbours", "ledger", "values", "proxies")
MODELS = ("targets", "trajectory", "annotated", "distilled")


def content_of(corpus: Manifest) -> list[Any]:
    """What later stages read of the corpus."""
    return [corpus.facts[key] for key in ("content", "classes", "input_shape", "standardize")]


def digests_of(corpus: Manifest, *kinds: str) -> list[str]:
    """What identifies held-out splits of the corpus: `test`, `validation`."""
    return [part.digest for kind in kinds for part in corpus.sides.get(kind, [])]


def standing(run: Run, corpus: Manifest) -> Before:
    """What stands of the stages before the scores."""
    known = run.manifests
    return Before(
        corpus, {name: known[name] for name in BESIDE if name in known}, {n: known[n] for n in MODELS if n in known}
    )


def resting_of(run: Run) -> list[str]:
    """Identifies who rests; empty where nobody is asked to."""
    return [run.manifests[resting.STAGE].fingerprint] if resting.STAGE in run.manifests else []


def what_is_kept(run: Run) -> Chosen:
    """What is kept: what the spec says, or the plan that it names."""
    if run.chosen is None:
        run.chosen = chosen(run.config.select, planning.definition(run.config, run.manifests["corpus"]))
        if run.chosen.told is not None:
            log.info("%-10s %s", "ratio", planned(run.chosen.told))
    return run.chosen
