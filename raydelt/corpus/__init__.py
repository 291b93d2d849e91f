"""Reading a corpus: sources, formats, canonical examples with ids, splits, quarantine."""
