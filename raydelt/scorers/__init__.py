"""Scorers: one method per file. A scorer gives columns of numbers per example; it never filters."""
