"""What a run found: tables, plots, one self-contained page."""
