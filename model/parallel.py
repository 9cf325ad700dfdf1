"""Several processes, one training: each takes its part of every batch, and gradients are summed.

Where nothing started several there is one process, and every function here returns what it is given.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from model.ranks import MEETING


def start(device: torch.device) -> None:
    """Join the processes that `model.ranks`, or torchrun, started, if one did."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    meeting = f"file://{os.environ[MEETING]}" if MEETING in os.environ else "env://"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, meeting, rank=int(os.environ["RANK"]), world_size=processes)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


def broadcast(numbers: Tensor) -> None:
    """Overwrite with what the first process holds."""
    if world() > 1:
        dist.broadcast(numbers, 0)


def all_reduce_sum(numbers: Tensor) -> Tensor:
    """Return the sum over processes, without a gradient."""
    numbers = numbers.detach().clone()
    if world() > 1:
        dist.all_reduce(numbers)
    return numbers


def union(numbers: Tensor) -> Tensor:
    """Return the distinct numbers of all processes, rising: the same everywhere."""
    own: Tensor = torch.unique(numbers)
    return own if world() == 1 else torch.unique(gather(own))


def sum_gradients(parameters: list[Tensor]) -> None:
    """Sum each parameter's gradient over the processes, all in one message."""
    if world() == 1:
        return
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    summed = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(summed)
    for parameter, part in zip(parameters, torch.split(summed, [grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter)


class _Gather(torch.autograd.Function):
    """Rows of all processes; each process keeps the gradient of its own rows."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world())]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        heights = [int(count) for count in counts]
        padded = rows.new_zeros((max(heights), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in heights]
        dist.all_gather(parts, padded)
        ctx.start, ctx.height = sum(heights[: rank()]), len(rows)  # type: ignore[attr-defined]
        return torch.cat([part[:height] for part, height in zip(parts, heights, strict=True)])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        start, height = ctx.start, ctx.height  # type: ignore[attr-defined]
        return grads[0][start : start + height]


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes, first rank first; a process gets the gradient of its own rows only.

    A loss over the gathered rows that every process computes alike then has the right gradient once they are summed.
    """
    if world() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered
