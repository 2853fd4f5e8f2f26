"""Make pseudo labels for whole data folders."""
