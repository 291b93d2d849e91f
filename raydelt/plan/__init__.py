"""Which part of the corpus is best at which budget: scaling laws of quality buckets, their fit, and its advice."""
