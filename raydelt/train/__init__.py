"""Final training with Ray Train, its baselines, and the comparison between them."""
