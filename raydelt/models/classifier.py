"""Classifiers: networks by name or from the user's own factory, standardisation, fitting, safetensors in and out.

A `Classifier` is a module from raw features [B, width] to logits [B, C]. It standardises by the mean and spread of its
own training data, which it keeps as buffers, so a saved model carries them. The features of an example are the inputs
of the last linear layer.

Cost: one forward and backward pass per step. Caution: on a CPU, results are reproducible bit by bit only with the same
number of threads; workers use one.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, cast

import numpy as np
import pyarrow as pa
import safetensors.torch
import torch
from torch import nn

from raydelt.config import ModelSpec, Recipe
from raydelt.errors import InputError, RaydeltError, SpecError
from raydelt.examples import LABEL, UInt64Array, column_of, features_of, shuffled
from raydelt.gradients.layers import accumulable
from raydelt.gradients.memory import bytes_per_row, rows_within
from raydelt.models.recipe import clip, optimizer, set_rate
from raydelt.scorers.protocol import Array


class Classifier(nn.Module):
    """A network behind its standardisation: raw features [B, width] to logits [B, num_classes]."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, network: nn.Module, input_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.network = network
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        self._row_bytes: int | None = None
        self.register_buffer("mean", torch.zeros(prod(self.input_shape)))
        self.register_buffer("scale", torch.ones(prod(self.input_shape)))

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        """Raw features [B, width] to standardised ones [B, *input_shape]."""
        return ((x - self.mean) / self.scale).reshape(-1, *self.input_shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(self.standardise(x))
        return logits

    def set_standardisation(self, mean: Array, scale: Array) -> None:
        """Take the mean [width] and spread [width] of the training data."""
        self.mean.copy_(torch.from_numpy(np.asarray(mean, np.float32)))
        self.scale.copy_(torch.from_numpy(np.asarray(scale, np.float32)))

    @property
    def last_linear(self) -> nn.Linear:
        """The layer that gives the logits.

        Raises:
            SpecError: the network has no linear layer with one output per class.
        """
        heads = [m for m in self.network.modules() if isinstance(m, nn.Linear) and m.out_features == self.num_classes]
        if not heads:
            raise SpecError(
                f"model {type(self.network).__name__} has no nn.Linear with {self.num_classes} outputs: "
                "last-layer features need one (drop the scorer grad_norm, or end the network in nn.Linear)"
            )
        return heads[-1]

    @torch.inference_mode()
    def predict(self, x: Array, *, features: bool = False) -> Array:
        """Logits [B, C] of raw features [B, width], in eval mode.

        With `features`, instead the inputs [B, d] of the last linear layer, a 1 appended where it has a bias.
        """
        self.eval()
        inputs = torch.from_numpy(np.array(x, np.float32)).to(self.mean.device)
        if not features:
            logits: Array = self(inputs).float().cpu().numpy()
            return logits
        caught: list[torch.Tensor] = []
        hook = self.last_linear.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            self(inputs)
        finally:
            hook.remove()
        found: Array = caught[-1].float().cpu().numpy()
        bias: torch.Tensor | None = getattr(self.last_linear, "bias", None)
        if bias is None:
            return found
        return np.concatenate([found, np.ones((len(found), 1), np.float32)], axis=1)

    @property
    def module(self) -> nn.Module:
        """The network behind its standardisation, in eval mode."""
        return self.eval()

    def groups(self, batch: pa.RecordBatch, rows: Array, budget: int) -> Sequence[Array]:
        """Rows in groups whose activations fit `budget` bytes."""
        if self._row_bytes is None:
            self._row_bytes = bytes_per_row(self.module, self.losses, self.tensors(batch, rows[:1])[0])
        size = rows_within(budget, self._row_bytes)
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def tensors(self, batch: pa.RecordBatch, rows: Array) -> tuple[dict[str, torch.Tensor], None]:
        """Features `x` [n, width] and labels `y` [n] of these rows, on the model's device."""
        x = torch.from_numpy(features_of(batch)[rows]).to(self.mean.device)
        return {"x": x, "y": torch.from_numpy(column_of(batch, LABEL)[rows].astype(np.int64)).to(x.device)}, None

    @staticmethod
    def losses(forward: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Cross entropy [n]."""
        return nn.functional.cross_entropy(accumulable(forward(tensors["x"])), tensors["y"], reduction="none")

    def input_saliency(self, x: Array, y: Array) -> Array:
        """L1 norms [B] of the gradient of each example's cross entropy by its standardised features."""
        self.eval()
        device = self.mean.device
        inputs = self.standardise(torch.from_numpy(np.array(x, np.float32)).to(device)).requires_grad_(True)
        labels = torch.from_numpy(np.array(y, np.int64)).to(device)
        # Examples are independent in eval mode, so the gradient of the sum holds each one's own.
        loss = nn.functional.cross_entropy(self.network(inputs), labels, reduction="sum")
        [gradient] = torch.autograd.grad(loss, [inputs])
        saliency: Array = gradient.abs().flatten(1).sum(1).cpu().numpy()
        return saliency


def build(spec: ModelSpec, input_shape: Sequence[int], num_classes: int, *, seed: int) -> Classifier:
    """A freshly initialised classifier; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        network = _NETWORKS[spec.network](spec, tuple(input_shape), num_classes) if spec.factory is None else None
        if network is None:
            network = _from_factory(cast(str, spec.factory), tuple(input_shape), num_classes)
    if not isinstance(network, nn.Module):
        raise SpecError(
            f"model.factory {spec.factory!r} returned {type(network).__name__}: it must return a torch module"
        )
    return Classifier(network, input_shape, num_classes)


def load_factory(target: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, name = target.partition(":")
    try:
        return cast(Callable[..., Any], getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise SpecError(f"model.factory {target!r} cannot be loaded ({error}): check `module:function`") from error


def _from_factory(target: str, input_shape: tuple[int, ...], num_classes: int) -> Any:
    try:
        return load_factory(target)(input_shape, num_classes)
    except RaydeltError:
        raise
    except Exception as error:
        raise SpecError(
            f"model.factory {target!r} failed when called with (input_shape {input_shape}, classes {num_classes}): "
            f"{type(error).__name__}: {error}"
        ) from error


def _logistic(spec: ModelSpec, shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes))


def _mlp(spec: ModelSpec, shape: tuple[int, ...], classes: int) -> nn.Module:
    widths = [prod(shape), *spec.hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def _cnn(spec: ModelSpec, shape: tuple[int, ...], classes: int) -> nn.Module:
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise SpecError(
            f"model.network 'cnn' needs images of at least 4 x 4, but the features have shape {list(shape)}: "
            "set corpus.image_shape to [channels, height, width], or use mlp"
        )
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, spec.hidden[0]),
        nn.ReLU(),
        nn.Linear(spec.hidden[0], classes),
    )


_NETWORKS: dict[str, Callable[[ModelSpec, tuple[int, ...], int], nn.Module]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "cnn": _cnn,
}


def fit(
    model: Classifier,
    x: Array,
    y: Array,
    keys: UInt64Array,
    *,
    recipe: Recipe,
    seed: int,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train in place on features [n, width] with labels [n]; the order of the batches follows from (seed, keys)."""
    own_fit = getattr(model.network, "fit", None)
    inputs, labels = torch.from_numpy(np.array(x, np.float32)), torch.from_numpy(np.array(y, np.int64))
    if own_fit is not None:
        own_fit(model.standardise(inputs), labels)
        return
    optimiser = optimizer(model, recipe)
    steps, done, epoch = recipe.total_steps(len(x)), 0, 0
    model.train()
    while done < steps:
        order = torch.from_numpy(shuffled(keys, seed, "epoch", epoch))
        for start in range(0, len(order), recipe.batch_size)[: steps - done]:
            batch = order[start : start + recipe.batch_size]
            optimiser.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            torch.autograd.backward(loss)
            clip(model.parameters(), recipe)
            set_rate(optimiser, recipe, done, steps)
            optimiser.step()
            done += 1
        if after_epoch is not None:
            after_epoch(epoch)
            model.train()
        epoch += 1
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise InputError(f"training diverged (lr {recipe.lr}): parameters are not finite; lower the learning rate")


def dump(model: Classifier) -> bytes:
    """The model's weights and standardisation as safetensors."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def restore(model: Classifier, data: bytes, *, origin: str) -> Classifier:
    """Load safetensors into a model of the same architecture.

    Raises:
        InputError: the bytes are no safetensors, or tensors are missing, left over or of another shape.
    """
    try:
        model.load_state_dict(safetensors.torch.load(data))
    except Exception as error:
        raise InputError(
            f"checkpoint {origin} does not fit the model of the spec ({' '.join(str(error).split())}): "
            "use a safetensors file of the same architecture"
        ) from error
    return model


def read_checkpoint(path: str) -> bytes:
    """The bytes of `model.safetensors`, given its path or that of the folder it lies in (local or URL).

    Raises:
        InputError: there is no such file, or it is a pickle.
    """
    from raydelt import storage

    if path.endswith((".pt", ".pth", ".bin", ".pkl", ".ckpt")):
        raise InputError(f"model.checkpoint {path!r} is a pickle: convert it to safetensors")
    file = path if path.endswith(".safetensors") else path.rstrip("/") + "/model.safetensors"
    try:
        with storage.opened(file) as opened:
            return cast(bytes, opened.read())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"model.checkpoint {file!r} does not exist: check the path") from error


def one_thread() -> None:
    """Compute on one thread: workers share the machine, and sums then have one order."""
    torch.set_num_threads(1)
