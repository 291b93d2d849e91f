"""What a search found, in words: a line for every trial, the table at the end, and the file of the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from raydelt.config import RunConfig
from raydelt.report.wording import METRICS, MINUS, Metric, duration, mean
from raydelt.tune.study import Trial, best_of

RESULT = "result.json"
BEST = "best.yaml"
LOSS = Metric("test loss", "nats", "nats", 1.0, 4)


def metric_of(config: RunConfig) -> str:
    """What the objective is: the spec's choice, or what the report compares by."""
    return config.tune.metric or ("loss" if config.model.kind == "causal_lm" else "error")


def trial_line(trial: Trial, config: RunConfig, finished: Sequence[Trial]) -> str:
    """How a trial ended, and the best so far."""
    metric, tune = metric_of(config), config.tune
    text = f"trial {trial.number} of {tune.trials}: "
    if trial.state == "failed":
        return f"{text}failed: {trial.reason}"
    text += f"{metric} {_value(metric, trial.value)}"
    if trial.state == "pruned":
        text += f", given up after {len(trial.values)} of {tune.seeds} seeds"
    best = best_of(finished)
    return f"{text}; best {_value(metric, best.value)} ({_name(best.number)}), {trial.seconds:.1f} s"


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The result as names and texts."""
    metric, counts = found["metric"], found["trials"]
    told = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed"))
    ended = "; ended by tune.seconds" if found["stopped"] == "seconds" else ""
    rows = [("trials", f"{counts['total']} ({told}) of {found['steps']} steps, {duration(found['seconds'])}{ended}")]
    rows += [("failed", reason) for reason in found["failures"]]
    rows.append((f"validation {metric}", f"{_value(metric, found['default']['value'])} of the spec as it is"))
    if found["verdict"] is None:
        return [*rows, ("verdict", "no trial did better than the spec as it is: nothing to change")]
    best = found["best"]
    rows.append(("", f"{_value(metric, best['value'])} of the winner, {_name(best['number'])}"))
    rows += [("overrides" if index == 0 else "", f"-o {one}") for index, one in enumerate(found["overrides"])]
    rows.append(("verdict", verdict_line(found)))
    return [(name, text.replace(MINUS, "-")) for name, text in rows]


def verdict_line(found: Mapping[str, Any]) -> str:
    """What the test split says of the winner, in a sentence."""
    told = found["verdict"]
    metric = LOSS if told["metric"] == "loss" else METRICS["accuracy"]
    ours, own = (mean(told["values"][arm]) for arm in ("winner", "default"))
    level = f"{100 * (1 - 0.05 / told['looks']):.3g} %"
    text = (
        f"{told['verdict']}: {metric.name} {metric.value(ours)} against {metric.value(own)}, "
        f"{metric.change(told['mean'])} {metric.of_differences} {metric.interval(told)} ({level} interval over "
        f"{told['pairs']} seeds and the rows of the test split, {found['full_steps']} steps each)"
    )
    return text if told["looks"] == 1 else f"{text}; look {told['looks']} at this test split"


def best_file(found: Mapping[str, Any]) -> str:
    """`best.yaml`: the sections that make the spec the winner, and what they are worth, as a comment."""
    told = verdict_line(found) if found["verdict"] else "no trial did better than the spec as it is"
    comment = f"# What `raydelt plan tune` found, to be laid over the spec.\n# {told.replace(MINUS, '-')}\n"
    return comment + yaml.safe_dump(found["sections"], sort_keys=False)


def _value(metric: str, value: float) -> str:
    return f"{100 * value:.2f} %" if metric == "error" else f"{value:.4f} nats"


def _name(number: int) -> str:
    return "the spec as it is" if number == 0 else f"trial {number}"
