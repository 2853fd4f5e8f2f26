"""Files in object stores: read through a cache, written by way of a working folder."""
