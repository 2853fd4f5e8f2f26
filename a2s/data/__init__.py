"""Reading and writing the data: keys, images, tar shards, the epoch's plan, the loader."""
