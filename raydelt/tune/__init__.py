"""Tuning: a search for the settings that the articles leave to hand, and whether what it finds is worth anything."""
