"""Tables spread over workers by rows, with torch's own DTensor; and whole states of such modules.

A worker then holds its part of the rows, of their gradients and of both moments of AdamW. A lookup
(``nn.Embedding``) goes through torch's ``RowwiseParallel``: every worker's indexes are gathered,
each looks up the rows it has, and the sums are scattered back to who asked. No worker ever holds
the whole table.

Source: Shazeer et al. 2018, "Mesh-TensorFlow", for tables split by rows; the engine is torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.world import World, is_spread


def lookup_tables(module: nn.Module) -> list[tuple[str, nn.Embedding | nn.EmbeddingBag]]:
    """Give the tables of ``module`` that are only looked up, by name.

    A module names those whose whole weight it computes with in ``whole_tables``.
    """
    return [
        (f"{owner}.{name}" if owner else name, table)
        for owner, part in module.named_modules()
        for name, table in part.named_children()
        if isinstance(table, nn.Embedding | nn.EmbeddingBag)
        and name not in getattr(part, "whole_tables", ())
    ]


def shard_tables(module: nn.Module, world: World, *, larger_than_mb: float) -> list[str]:
    """Spread the ``nn.Embedding`` tables of ``module`` that are larger; give their names.

    Every worker must call it.
    """
    # torch takes seconds to import these, and few runs need them.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module

    mesh = init_device_mesh(world.device.type, (world.size,))
    names = []
    for name, table in lookup_tables(module):
        if not isinstance(table, nn.Embedding):
            continue
        weight = table.weight
        if weight.numel() * weight.element_size() > larger_than_mb * 1e6:
            plan = RowwiseParallel(input_layouts=Shard(0), output_layouts=Shard(0))
            parallelize_module(table, mesh, plan)
            names.append(name)
    return names


def gather_tables(module: nn.Module) -> None:
    """Make tables that were spread ordinary again, whole on every worker: to be exported."""
    for name, table in list(module.named_modules()):
        if isinstance(table, nn.Embedding) and is_spread(table.weight):
            whole = nn.Embedding.from_pretrained(
                _whole(table.weight).detach(), freeze=False, padding_idx=table.padding_idx
            )
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, whole)


def is_sharded(module: nn.Module) -> bool:
    """Tell whether any table of ``module`` is spread over workers."""
    return any(is_spread(p) for p in module.parameters())


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Give all weights whole, on the CPU. Every worker must call it, and gets them all."""
    return {
        name: _whole(value).detach().cpu().clone() for name, value in module.state_dict().items()
    }


def load_module(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put whole weights into a module, each worker its rows."""
    if not is_sharded(module):
        module.load_state_dict(state)
        return
    from torch.distributed.tensor import distribute_tensor

    own = module.state_dict()
    module.load_state_dict(
        {
            name: distribute_tensor(value, there.device_mesh, there.placements)
            if is_spread(there := own[name])
            else value
            for name, value in state.items()
        }
    )


def optimiser_states(
    module: nn.Module, optimisers: list[torch.optim.Optimizer]
) -> list[dict[str, Any]]:
    """Give the moments whole."""
    if not is_sharded(module):
        return [one.state_dict() for one in optimisers]
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return [get_optimizer_state_dict(module, one, options=options) for one in optimisers]


def load_optimisers(
    module: nn.Module, optimisers: list[torch.optim.Optimizer], states: list[dict[str, Any]]
) -> None:
    """Put moments back."""
    if not is_sharded(module):
        for one, state in zip(optimisers, states, strict=True):
            one.load_state_dict(state)
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True)
    for one, state in zip(optimisers, states, strict=True):
        set_optimizer_state_dict(module, one, state, options=options)


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if is_spread(value) else value  # type: ignore[operator]
