"""Small models of every kind of layer that has a rule, each with a batch and the losses of its examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unit.gradients.oracle import Case


def classified(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    return functional.cross_entropy(forward(batch["x"]), batch["y"], reduction="none")


def masked_mean(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """The mean cross-entropy over each row's unmasked positions."""
    each = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return (each * mask).sum(1) / mask.sum(1)


def next_token(forward: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
    logits = forward(batch["ids"], batch["mask"])
    return masked_mean(logits[:, :-1], batch["ids"][:, 1:], batch["mask"][:, 1:])


def spread(model: nn.Module, seed: int = 3) -> nn.Module:
    """Move every number of a model off its start, so that no weight is one and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer += 0.5 * torch.rand(buffer.shape, generator=generator)
    return model.eval()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 2) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def case_of(model: nn.Module, *shape: int, rows: int = 5, classes: int = 4) -> Case:
    """A classifier of random inputs [rows, *shape]."""
    return Case(spread(model), classified, {"x": random(rows, *shape), "y": integers(classes, rows)})


def texts(rows: int, length: int, vocabulary: int = 19) -> dict[str, Tensor]:
    """Random token ids, and a mask of texts of 3 to `length` tokens that are padded on the right."""
    lengths = 3 + (torch.arange(rows) * 5) % (length - 2)
    return {
        "ids": 1 + integers(vocabulary - 1, rows, length),
        "mask": (torch.arange(length) < lengths[:, None]).float(),
    }


def mlp(*, bias: bool = True, inplace: bool = False) -> Case:
    return case_of(
        nn.Sequential(
            nn.Linear(6, 9, bias=bias),
            nn.ReLU(inplace=inplace),
            nn.Linear(9, 7, bias=bias),
            nn.ReLU(inplace=inplace),
            nn.Linear(7, 4, bias=bias),
        ),
        6,
    )


class Pooled(nn.Module):
    """The mean over the positions that a network leaves: over all but the first and the channels' dimension."""

    def __init__(self, *layers: nn.Module, channels: int) -> None:
        super().__init__()
        self.layers, self.channels = nn.Sequential(*layers), channels

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).movedim(self.channels, -1).flatten(1, -2).mean(1)


def conv2d(*, bias: bool = True) -> Case:
    return case_of(
        Pooled(
            nn.Conv2d(2, 6, 3, stride=2, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 9, (3, 2), dilation=(2, 1), padding=(2, 1), groups=3, bias=bias),
            nn.GroupNorm(3, 9),
            nn.ReLU(),
            nn.Conv2d(9, 6, 3, padding=1, padding_mode="reflect", bias=bias),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 6, 3, padding="same", groups=6, bias=bias),
            nn.InstanceNorm2d(6, affine=True),
            nn.Tanh(),
            nn.Conv2d(6, 4, 1, bias=bias),
            channels=1,
        ),
        2,
        9,
        8,
    )


def conv1d(*, bias: bool = True) -> Case:
    return case_of(
        Pooled(
            nn.Conv1d(2, 6, 4, stride=2, padding=3, dilation=2, bias=bias),
            nn.GroupNorm(2, 6),
            nn.Tanh(),
            nn.Conv1d(6, 8, 3, groups=2, padding=1, padding_mode="circular", bias=bias),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.Conv1d(8, 6, 3, padding=2, padding_mode="replicate", bias=bias),
            nn.InstanceNorm1d(6, affine=True),
            nn.Conv1d(6, 4, 3, padding="valid", bias=bias),
            channels=1,
        ),
        2,
        14,
    )


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        allowed = causal & (mask[:, None, None, :] > 0) | torch.eye(length, dtype=torch.bool, device=x.device)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    def __init__(self, width: int, norm: Callable[[int], nn.Module], *, bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = Attention(width, 2, bias=bias)
        self.up, self.down = nn.Linear(width, 2 * width, bias=bias), nn.Linear(2 * width, width, bias=bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A small pre-norm language model that looks its positions up once for the whole batch, as ids [T]."""

    def __init__(
        self,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        *,
        vocabulary: int = 19,
        width: int = 8,
        bias: bool = True,
        tied: bool = False,
        layers: int = 1,
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(40, width)
        self.blocks = nn.ModuleList(Block(width, norm, bias=bias) for _ in range(layers))
        self.norm = norm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.tokens.weight

    def placed(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.placed(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.lm_head(self.norm(x))


def transformer(
    norm: Callable[[int], nn.Module] = nn.LayerNorm, *, rows: int = 5, length: int = 8, **options: Any
) -> Case:
    return Case(spread(Transformer(norm, **options)), next_token, texts(rows, length))


class Recurrent(nn.Module):
    """One layer used three times; with `unused`, a fourth time for something that never reaches the loss."""

    def __init__(self, *, bias: bool = True, unused: bool = False) -> None:
        super().__init__()
        self.step, self.head, self.unused = nn.Linear(6, 6, bias=bias), nn.Linear(6, 4), unused

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.step(x))
        if self.unused:
            self.step(x).square()
        return self.head(x)


def recurrent(**options: bool) -> Case:
    return case_of(Recurrent(**options), 6)


class Tagged(nn.Module):
    """A bag of words with a padding word, and a tag per row that is embedded from ids without positions."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.words, self.tags = nn.Embedding(11, 5, padding_idx=0), nn.Embedding(4, 5)
        self.head = nn.Linear(5, 4, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(x).sum(1) + self.tags(x.amax(1) % 4)))


def tagged(**options: bool) -> Case:
    ids = integers(11, 5, 6)
    ids[:, 3:] *= integers(2, 5, 3)
    return Case(spread(Tagged(**options)), classified, {"x": ids, "y": integers(4, 5)})


class Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.head = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 4)
        self.scale = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        self.scale(x)
        return self.head(torch.tanh(self.used(x)))


def on_dimensions(*shape: int, bias: bool = True) -> Case:
    layers = (nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.LayerNorm(5, bias=bias), nn.Linear(5, 4, bias=bias))
    return case_of(Pooled(*layers, channels=-1) if len(shape) > 1 else nn.Sequential(*layers), *shape)


RULED: dict[str, Callable[[], Case]] = {
    "mlp": mlp,
    "mlp-no-bias": lambda: mlp(bias=False),
    "mlp-inplace": lambda: mlp(inplace=True),
    "conv2d": conv2d,
    "conv2d-no-bias": lambda: conv2d(bias=False),
    "conv1d": conv1d,
    "conv1d-no-bias": lambda: conv1d(bias=False),
    "transformer": transformer,
    "transformer-no-bias": lambda: transformer(bias=False),
    "transformer-two-layers": lambda: transformer(layers=2),
    "transformer-rms": lambda: transformer(nn.RMSNorm),
    "transformer-tied": lambda: transformer(tied=True),
    "transformer-rms-tied": lambda: transformer(nn.RMSNorm, tied=True, bias=False),
    "recurrent": recurrent,
    "recurrent-no-bias": lambda: recurrent(bias=False),
    "recurrent-unused": lambda: recurrent(unused=True),
    "embedding-padding": tagged,
    "embedding-padding-no-bias": lambda: tagged(bias=False),
    "unreached": lambda: case_of(Unreached(), 6),
    "linear-2d": lambda: on_dimensions(6),
    "linear-3d": lambda: on_dimensions(3, 6),
    "linear-4d": lambda: on_dimensions(3, 2, 6),
    "linear-4d-no-bias": lambda: on_dimensions(3, 2, 6, bias=False),
    "norm-of-two-dimensions": lambda: case_of(
        nn.Sequential(nn.Linear(6, 5), nn.LayerNorm([3, 5]), nn.Flatten(), nn.Linear(15, 4)), 3, 6
    ),
    "the-model-is-a-layer": lambda: case_of(nn.Linear(6, 4), 6),
}
