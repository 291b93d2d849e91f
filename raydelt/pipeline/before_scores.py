"""The stages that the scorers of a spec ask for: tokens, vectors, neighbours, values, proxies, trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from raydelt.config import RunConfig
from raydelt.corpus.tokens import tokenise_corpus
from raydelt.lqs.distil import distil
from raydelt.lqs.stage import walk_trajectories
from raydelt.lqs.starts import model_of, spec_of
from raydelt.models import folder
from raydelt.models.identity import own_models
from raydelt.pipeline.inputs import content_of, digests_of, standing
from raydelt.pipeline.run import Run
from raydelt.scorers.cells import origin
from raydelt.scorers.embeddings import embed_corpus
from raydelt.scorers.ledger import keep_ledger
from raydelt.scorers.lqs import Distil
from raydelt.scorers.neighbours import find_neighbours
from raydelt.scorers.protocol import Need
from raydelt.scorers.proxies import fit_proxies, keep_proxies, may_keep
from raydelt.scorers.stage import score_corpus
from raydelt.scorers.targets import requests, target_gradients
from raydelt.storage import Manifest
from raydelt.valuation.methods import Valuation
from raydelt.valuation.stage import value_corpus


def stages_before_scores(run: Run, corpus: Manifest, needs: frozenset[Need]) -> Iterator[None]:
    """Pauses after each stage."""
    config, known = run.config, run.manifests
    if config.model.kind == "causal_lm":
        _tokens(run, corpus)
        yield
    if config.encoder is not None and needs & {"vectors", "neighbours", "values"}:
        _embeddings(run, corpus, ["validation"] if "values" in needs else [])
        yield
    if "neighbours" in needs:
        embeddings = known.get("embeddings")
        run.stage(
            "neighbours",
            [content_of(corpus), embeddings.fingerprint if embeddings else None],
            lambda stage: find_neighbours(corpus, embeddings, stage, seed=config.seed),
        )
        yield
    if "ledger" in needs:
        _ledger(run, corpus)
        yield
    if "values" in needs:
        _values(run, corpus)
        yield
    if config.rank.method == "folding_sort" and needs & {"classifier", "gradients"}:
        _proxies(run, corpus)
        yield
    if "target" in needs:
        _targets(run, corpus)
        yield
    if "trajectory" in needs:
        yield from _along_trajectories(run, corpus)


def _tokens(run: Run, corpus: Manifest) -> None:
    model = run.config.model
    assert model.kind == "causal_lm"
    settings = {name: getattr(model, name) for name in ("context", "long_documents", "answer_after")}
    run.stage(
        "tokens",
        [content_of(corpus), settings, folder.fingerprint(model.paths[0])],
        lambda stage: tokenise_corpus(model, corpus, stage),
    )


def _embeddings(run: Run, corpus: Manifest, sides: list[str]) -> None:
    encoder, actors = run.config.encoder, run.config.cluster.actors
    assert encoder is not None
    identity = folder.fingerprint(encoder.path)
    run.stage(
        "embeddings",
        [content_of(corpus), encoder.model_dump(mode="json"), identity, digests_of(corpus, *sides)],
        lambda stage: embed_corpus(encoder, actors, corpus, stage, sides=sides),
    )


def _ledger(run: Run, corpus: Manifest) -> None:
    config, c = run.config, run.config.model_dump(mode="json")
    run.stage(
        "ledger",
        [content_of(corpus), c["model"], {name: c["rank"][name] for name in ("rounds", "proxy")}],
        lambda stage: keep_ledger(config.rank, config.model, corpus, stage, seed=config.seed),
    )


def _values(run: Run, corpus: Manifest) -> None:
    embeddings = run.manifests.get("embeddings")
    methods = [spec for spec in run.config.score if isinstance(spec, Valuation)]
    run.stage(
        "values",
        [
            content_of(corpus),
            [method.lasting() for method in methods],
            digests_of(corpus, "validation"),
            embeddings.fingerprint if embeddings else None,
        ],
        lambda stage: value_corpus(run.config, methods, corpus, embeddings, stage),
    )


def _proxies(run: Run, corpus: Manifest) -> None:
    """The proxies of an earlier version where they may be kept, else fitted ones."""
    config, c, earlier = run.config, run.config.model_dump(mode="json"), run.earlier
    settings = {name: c["rank"][name] for name in ("folds", "rounds", "proxy", "max_proxy_examples")}
    inputs = [content_of(corpus), c["model"], settings]
    if earlier is not None and may_keep(earlier, corpus, config.rank, config.model):
        kept = [origin(earlier.manifests["proxies"]), earlier.manifests["proxies"].fingerprint]
        run.stage(
            "proxies",
            [*inputs, kept],
            lambda stage: keep_proxies(earlier, corpus, stage, seed=config.seed),
        )
    else:
        run.stage(
            "proxies", inputs, lambda stage: fit_proxies(config.rank, config.model, corpus, stage, seed=config.seed)
        )


def _targets(run: Run, corpus: Manifest) -> None:
    config, proxies, tokens = run.config, run.manifests.get("proxies"), run.manifests.get("tokens")
    inputs = [
        origin(proxies) if proxies else own_models(config.model),
        [asdict(one) for one in requests(config)],
    ]
    run.stage(
        "targets",
        [inputs, digests_of(corpus, "validation"), tokens.fingerprint if tokens else None],
        lambda stage: target_gradients(config, corpus, proxies, tokens, stage),
    )


def _along_trajectories(run: Run, corpus: Manifest) -> Iterator[None]:
    """The trajectories, and where the corpus is too large to annotate, a data scorer in their place."""
    config, spec, tokens = run.config, spec_of(run.config), run.manifests.get("tokens")
    settings = spec.model_dump(mode="json", exclude={"kind", "target", "annotate", "workers"})
    walked = run.stage(
        "trajectory",
        [
            [content_of(corpus), settings, own_models(model_of(config)), tokens.fingerprint if tokens else None],
            digests_of(corpus, "validation"),
        ],
        lambda stage: walk_trajectories(config, corpus, tokens, stage),
    )
    yield
    if spec.annotate == "direct":
        return
    sample = standing(run, corpus).first(spec.annotate.proxy)
    exact = config.model_copy(update={"score": [spec.model_copy(update={"annotate": "direct"})]})
    annotated = run.stage(
        "annotated",
        [walked.fingerprint, sample.corpus.rows],
        lambda stage: score_corpus(exact, sample, stage),
    )
    yield
    run.stage(
        "distilled",
        [annotated.fingerprint, spec.annotate.model_dump(mode="json"), _encoder(config, spec.annotate)],
        lambda stage: distil(config, spec, corpus, annotated, stage),
    )
    yield


def _encoder(config: RunConfig, distil: Distil) -> str | None:
    """Identifies the data scorer's encoder by its files; None where it is the spec's own network."""
    if config.model.kind != "causal_lm":
        return None
    return folder.fingerprint(distil.encoder or config.model.paths[0])
