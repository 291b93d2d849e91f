"""Active learning: which unlabelled examples to ask people about, in which phase, and when to stop."""
