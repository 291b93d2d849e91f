"""Watching a run over time: decay of utilities, drift, retirement of examples, and when to score again."""
