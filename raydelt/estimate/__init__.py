"""What a run will take, from trials on small parts of its corpus; and what it took, beside that."""
