"""Stages 2 and 3 on chosen blocks alone, against the network with everything else masked."""

from __future__ import annotations

import cascade_tiny
import torch

from engines.cascade.blocks import least_sure, padded_rows, run_on_blocks, window_rows
from engines.cascade.rule import spread

CELLS = 4


def test_blocks_alone_equal_the_masked_network() -> None:
    net = cascade_tiny.random_net()
    planes = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    chosen = torch.tensor([47, 0, 3, 9, 10, 24])  # corners, neighbours and lone ones
    blocks = torch.zeros(48, dtype=torch.bool)
    blocks[chosen] = True
    mask = spread(blocks.view(2, 1, 4, 6), CELLS)
    with torch.no_grad():
        features, _ = net.stage1(planes / 128)
        wanted, x = [], features
        for stage in (net.stage2, net.stage3):
            x, logits = stage(x, mask)
            wanted.append(logits)
        found = run_on_blocks((net.stage2, net.stage3), features, chosen, CELLS)
    rows = window_rows(chosen, features.shape, CELLS, 0).flatten()
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, padded_rows(theirs)[rows], atol=1e-5, rtol=1e-5)


def test_the_least_sure_blocks_are_chosen_and_some_others() -> None:
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 9
    logits[:, 0, 2:4, 4:6] = 0  # the seventh of the sixteen blocks of 2x2
    assert least_sure(logits, 2, 1, 0.0).tolist() == [6]
    torch.manual_seed(0)
    anywhere = [least_sure(logits, 2, 1, 0.5).item() for _ in range(40)]
    assert len(set(anywhere)) > 5
