"""Selection: which of the ranked examples are kept."""
