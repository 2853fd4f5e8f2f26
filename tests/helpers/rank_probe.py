"""A rank that says who it is and sums over all ranks; run by launchers in tests."""

from __future__ import annotations

import torch

from a2s.parallel import ranks

if __name__ == "__main__":
    device = ranks.start().device.type
    total = int(ranks.all_sum(torch.tensor([ranks.rank() + 1])))
    print(f"rank {ranks.rank()} of {ranks.world()} on {device}: {total}", flush=True)
    ranks.close_watch()
    ranks.destroy_process_group()
