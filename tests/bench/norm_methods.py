"""The models that gradient norms are timed on, and the ways to get norms: ours, and what others offer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydelt.gradients import PerExampleGradients

Task = tuple[nn.Module, Callable[..., Tensor], dict[str, Tensor]]


class Block(nn.Module):
    """Pre-norm attention and a four times wider MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A small causal language model with an output layer of its own."""

    def __init__(self, width: int = 128, layers: int = 4, vocabulary: int = 2000, length: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device).repeat(len(ids), 1)
        x = self.tokens(ids) + self.places(places)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


def mlp() -> Task:
    """256-512-512-10, batch 256."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    batch = {"x": torch.randn(256, 256), "y": torch.randint(0, 10, (256,))}
    return model.eval(), lambda f, b: functional.cross_entropy(f(b["x"]), b["y"], reduction="none"), batch


def transformer() -> Task:
    """4 layers, d = 128, T = 64, V = 2000, batch 32."""
    torch.manual_seed(0)
    batch = {"ids": torch.randint(0, 2000, (32, 64))}

    def losses(forward: Callable[..., Tensor], b: dict[str, Tensor]) -> Tensor:
        logits = forward(b["ids"])[:, :-1]
        each = functional.cross_entropy(logits.flatten(0, 1), b["ids"][:, 1:].flatten(), reduction="none")
        return each.reshape(len(logits), -1).mean(1)

    return Transformer().eval(), losses, batch


TASKS: dict[str, Callable[[], Task]] = {"mlp": mlp, "transformer": transformer}


def plain(task: Task) -> Callable[[], Any]:
    """Forward and backward of the summed loss."""
    model, losses, batch = task

    def run() -> None:
        for p in model.parameters():
            p.grad = None
        losses(model, batch).sum().backward()

    return run


def ours(task: Task, *, backend: str = "ghost", dots: int = 0) -> Callable[[], Any]:
    model, losses, batch = task
    engine = PerExampleGradients(model, losses, backend=backend)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    vectors = [
        {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()} for _ in range(dots)
    ]
    return lambda: engine(batch, vectors=vectors).norms


def vmapped(task: Task) -> Callable[[], Any]:
    """torch.func as its tutorial has it: vmap(grad) over the batch, then norms."""
    model, losses, batch = task
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(own: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
        return losses(lambda *a: torch.func.functional_call(model, own, a), {k: v[None] for k, v in row.items()})[0]

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))

    def run() -> Tensor:
        grads = each(parameters, batch)
        return torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()

    return run


def loop(task: Task) -> Callable[[], Any]:
    """One backward pass per example."""
    model, losses, batch = task
    parameters = list(model.parameters())

    def run() -> Tensor:
        norms = []
        for i in range(len(next(iter(batch.values())))):
            [value] = losses(model, {name: x[i : i + 1] for name, x in batch.items()})
            norms.append(torch.stack([g.square().sum() for g in torch.autograd.grad(value, parameters)]).sum().sqrt())
        return torch.stack(norms)

    return run


def opacus(task: Task) -> Callable[[], Any]:
    """Opacus' ghost clipping module; its loss must be the mean or sum over the batch."""
    import warnings

    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    warnings.simplefilter("ignore")
    model, losses, batch = task
    model.train()  # it records in training mode only; these models behave alike in both
    wrapped = GradSampleModuleFastGradientClipping(
        model, loss_reduction="sum", use_ghost_clipping=True, max_grad_norm=1.0, strict=False
    )

    def run() -> Tensor:
        wrapped.zero_grad()
        losses(wrapped, batch).sum().backward()
        norms: Tensor = wrapped.get_norm_sample()
        return norms

    return run


def bergson(task: Task) -> Callable[[], Any]:
    """bergson's collector, which hooks linear layers alone and materialises their gradients."""
    from bergson.collector.gradient_collectors import GradientCollector
    from bergson.config import IndexConfig
    from bergson.gradients import GradientProcessor
    from datasets import Dataset

    model, losses, batch = task
    ids = batch["ids"]
    data = Dataset.from_dict({"input_ids": ids.tolist(), "length": [ids.shape[1]] * len(ids)})
    folder = IndexConfig(run_path=tempfile.mkdtemp())
    collector = GradientCollector(model=model, data=data, cfg=folder, processor=GradientProcessor(), skip_index=True)

    def run() -> Tensor:
        with collector:
            losses(model, batch).sum().backward()
        squares = [g.float().square().flatten(1).sum(1) for g in collector.mod_grads.values()]
        collector.mod_grads.clear()
        return torch.stack(squares).sum(0).sqrt()

    return run


def linear(task: Task) -> Callable[[], Any]:
    """Ours over the same weights as bergson's."""
    model, losses, batch = task
    names = [f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    engine = PerExampleGradients(model, losses, parameters=names)
    return lambda: engine(batch).norms


METHODS: dict[str, Callable[[Task], Callable[[], Any]]] = {
    "plain": plain,
    "raydelt": ours,
    "raydelt+dot": lambda task: ours(task, dots=1),
    "opacus": opacus,
    "vmap": vmapped,
    "loop": loop,
    "raydelt (linear layers)": linear,
    "bergson (linear layers)": bergson,
}
