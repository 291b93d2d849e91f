"""Orders: where in the epoch each selected example stands."""
