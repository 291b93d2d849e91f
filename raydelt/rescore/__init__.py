"""Scoring a run again as its corpus, its scorers and its models change: what is new is computed, the rest stays."""
