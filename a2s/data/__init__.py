"""From photographs to batches: keys, images, tar shards, epoch plan, loader."""
