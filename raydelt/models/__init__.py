"""The models that scorers and trainers share."""
