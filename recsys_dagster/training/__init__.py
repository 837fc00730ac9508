"""One loop, one batcher, one checkpoint format and one scorer contract for every model."""
