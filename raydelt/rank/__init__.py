"""The reducer: stored components become one score, and scores a global rank."""
