"""Small language models trained on the same number of tokens, but on other documents or in another order.

An arm says which documents a model sees, and in which order. All arms of a seed share the initial weights, the recipe
and the budget of target tokens; training ends with the first batch that reaches it, and the learning rate is a
function of the share of it that is used. An arm that runs out of documents begins again. What counts is the mean loss
per token on test documents.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from raydelt import cluster
from raydelt.config import Cluster
from raydelt.order.folds import folding
from raydelt.train.compare import paired

PEERS = Path("build/peers")
VOCABULARY, EOS = 4096, "<eos>"
EVAL_BATCH = 50
# What the trigram model gives a word that it does not know: less than the rarest one it knows.
LN_UNKNOWN = -16.0
IGNORED = -100

Array = NDArray[Any]
Orders = Callable[[int], Array]


@dataclass(frozen=True)
class Settings:
    """How every arm is trained; `warm_up` is a share of the budget, before a cosine down to nothing."""

    rate: float = 1e-3
    batch: int = 16
    warm_up: float = 0.05
    weight_decay: float = 0.1
    clip: float = 1.0
    width: int = 128
    layers: int = 4


@dataclass(frozen=True)
class Arm:
    """What a model is trained on: for a seed, indices of documents in order; shuffled before every pass or not."""

    name: str
    orders: Orders
    reshuffle: bool = False

    def stream(self, tokens: Sequence[Array], seed: int) -> Iterator[Array]:
        """The documents, without an end."""
        return passes(self.orders(seed), tokens, seed=seed, reshuffle=self.reshuffle)


def arms(
    scores: Mapping[str, Array],
    lengths: Array,
    *,
    ratio: float = 0.3,
    layers: int = 3,
    seed: int = 0,
    main: str = "lqs",
) -> list[Arm]:
    """The baselines, the best part by every score, and orders of the main score's beside those that tell nothing.

    Higher scores are better. The random part is another one for every training seed; `seed` is that of the draws.
    """
    n = len(lengths)
    k = int(ratio * n)
    best = {name: np.argsort(values, kind="stable")[n - k :] for name, values in scores.items()}
    kept, own = best[main], np.asarray(scores[main])
    part = f"{main} {ratio:.0%}"
    fixed = {
        f"{part}, sorted": kept,
        f"{part}, folded": kept[_folded(own[kept], layers)],
        f"{part}, folded by -{main}": kept[_folded(-own[kept], layers)],
        f"{part}, folded by length": kept[_folded(np.asarray(lengths)[kept], layers)],
        f"all, folded by {main}": _folded(own, layers),
    }
    found = [Arm("random", partial(_random_part, n, k, seed), True), Arm("full", partial(_same, np.arange(n)), True)]
    found.append(Arm(part, partial(_same, kept), True))
    found += [Arm(name, partial(_same, order)) for name, order in fixed.items()]
    return found + [
        Arm(f"{name} {ratio:.0%}", partial(_same, order), True) for name, order in best.items() if name != main
    ]


def _random_part(n: int, k: int, salt: int, seed: int) -> Array:
    return np.random.default_rng([salt, seed]).permutation(n)[:k]


def _same(order: Array, seed: int) -> Array:
    return order


def _folded(values: Array, layers: int) -> Array:
    """Indices in `layers` runs from low to high values."""
    order = np.empty(len(values), np.int64)
    order[folding(np.arange(len(values)), len(values), layers)] = np.argsort(values, kind="stable")
    return order


def compare(
    tokens: Sequence[Array],
    arms: Sequence[Arm],
    *,
    seeds: Sequence[int],
    budget_tokens: int,
    test: Sequence[Array],
    settings: Settings,
    record: Path,
) -> dict[str, list[float]]:
    """Test losses of every arm in the order of the seeds; a Ray task with one thread for each arm and seed.

    The losses of a seed are added to the file `record` when all its arms are trained, and not trained again.
    """
    known: dict[str, dict[str, float]] = json.loads(record.read_text()) if record.exists() else {}
    with cluster.connected(Cluster()):
        corpus, held_out = ray.put(list(tokens)), ray.put(list(test))
        for seed in seeds:
            own = known.setdefault(str(seed), {})
            left = [arm for arm in arms if arm.name not in own]
            calls = [(corpus, arm, seed, budget_tokens, held_out, settings) for arm in left]
            losses = cluster.parallel(_trained, calls, label=f"train arms, seed {seed}")
            own.update(zip((arm.name for arm in left), losses, strict=True))
            record.write_text(json.dumps(known))
            print(f"seed {seed}: {len(left)} arms trained", flush=True)
    return {arm.name: [known[str(seed)][arm.name] for seed in seeds] for arm in arms}


def _trained(
    tokens: list[Array], arm: Arm, seed: int, budget_tokens: int, test: list[Array], settings: Settings
) -> float:
    return train_arm(tokens, arm, seed=seed, budget_tokens=budget_tokens, test=test, settings=settings)


def train_arm(
    tokens: Sequence[Array], arm: Arm, *, seed: int, budget_tokens: int, test: Sequence[Array], settings: Settings
) -> float:
    """The mean test loss per token of a fresh model that is trained on an arm."""
    torch.set_num_threads(1)
    model = fresh(settings, seed)
    fit(model, arm.stream(tokens, seed), budget_tokens=budget_tokens, settings=settings)
    return mean_loss(model, test)


def table(results: Mapping[str, Sequence[float]], baselines: Sequence[str] = ("random", "full")) -> str:
    """Mean losses, and the differences to the baselines, paired by seed, with 95 % intervals; less is better."""
    wide = max(map(len, results))
    lines = [f"{'arm':{wide}}  test loss" + "".join(f"  {'- ' + name:26}" for name in baselines)]
    for name, losses in results.items():
        line = f"{name:{wide}}  {np.mean(losses):9.4f}"
        for baseline in baselines:
            if name == baseline or baseline not in results:
                line += " " * 28
                continue
            d = paired(losses, results[baseline])
            interval = "" if d.low is None else f"[{d.low:+.4f}, {d.high:+.4f}]"
            line += f"  {d.mean:+.4f} {interval:18}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def ngram_perplexity(texts: Sequence[str]) -> Array:
    """Perplexity per word under the English trigram model that comes with pocketsphinx (make peers)."""
    sys.path.append(str(PEERS.absolute()))
    from pocketsphinx import Config, LogMath, NGramModel, get_model_path

    logs = LogMath()
    model = NGramModel(Config(), logs, get_model_path("en-us/en-us.lm.bin"))
    found = np.full(len(texts), math.exp(-LN_UNKNOWN))
    for row, text in enumerate(texts):
        # Contractions are words of the model; any other mark ends a word.
        words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())
        newest_first = (words[max(0, i - 2) : i + 1][::-1] for i in range(len(words)))
        # An unknown word has the logarithm of zero.
        each = [max(logs.log_to_ln(model.prob(own)), LN_UNKNOWN) for own in newest_first]
        if each:
            found[row] = math.exp(-sum(each) / len(each))
    return found


def train_tokenizer(texts: Sequence[str]) -> Any:
    """Byte-level pairs; `<eos>`, token 0, comes before every document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    inner.post_processor = processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=EOS, eos_token=EOS)


def fresh(settings: Settings, seed: int) -> nn.Module:
    """A Llama with seeded random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=settings.width,
        intermediate_size=4 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        use_cache=False,
    )
    return LlamaForCausalLM(shape)


def passes(order: Array, documents: Sequence[Array], *, seed: int, reshuffle: bool) -> Iterator[Array]:
    """The documents in this order without an end, or in another order each time."""
    rng = np.random.default_rng([seed, len(order)])
    while True:
        for index in rng.permutation(order) if reshuffle else order:
            yield documents[int(index)]


def fit(model: nn.Module, documents: Iterator[Array], *, budget_tokens: int, settings: Settings) -> int:
    """Train until the budget of target tokens is spent; the number that were used."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay, betas=(0.9, 0.95))
    used = 0
    model.train()
    while used < budget_tokens:
        batch = list(islice(documents, settings.batch))
        targets = sum(len(ids) - 1 for ids in batch)
        share = (used + targets / 2) / budget_tokens
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _schedule(min(1.0, share), settings.warm_up)
        optimiser.zero_grad(set_to_none=True)
        (_summed_loss(model, batch) / targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
        used += targets
    return used


def _schedule(share: float, warm_up: float) -> float:
    if share < warm_up:
        return share / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (share - warm_up) / (1 - warm_up))


def _summed_loss(model: nn.Module, batch: Sequence[Array]) -> Tensor:
    ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.int64)
    targets = torch.full_like(ids, IGNORED)
    for row, own in enumerate(batch):
        ids[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
        targets[row, : len(own) - 1] = ids[row, 1 : len(own)]
    logits = model(input_ids=ids, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def mean_loss(model: nn.Module, documents: Sequence[Array]) -> float:
    """Loss per target token."""
    model.eval()
    ordered = sorted(documents, key=len)
    with torch.no_grad():
        batches = (ordered[at : at + EVAL_BATCH] for at in range(0, len(ordered), EVAL_BATCH))
        total = sum(float(_summed_loss(model, batch)) for batch in batches)
    return total / sum(len(ids) - 1 for ids in documents)
