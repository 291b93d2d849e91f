"""What no backend can do: layers that couple the examples of a batch, or that draw random numbers."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from raydelt.errors import SpecError


def refuse_coupling(model: nn.Module) -> None:
    """Refuse what makes an example's gradient depend on its batch, or on chance.

    Raises:
        SpecError: a layer that normalises by the batch, or one that drops at random.
    """
    for path, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise SpecError(
                f"{path or 'the model'} is a {kind} that normalises by the batch, so an example has no gradient of "
                "its own: call model.eval() with tracked statistics, or use GroupNorm"
            )
        if module.training and _drops(module):
            raise SpecError(
                f"{path or 'the model'} is a {kind} in training mode, so gradients are random: call model.eval()"
            )


def _drops(module: nn.Module) -> bool:
    """Whether a module in training mode leaves things out at random."""
    if isinstance(module, _DropoutNd):
        return module.p > 0
    share = getattr(module, "dropout", 0.0)
    return isinstance(share, float) and share > 0
