"""Trajectory LQS: an inner SGD trajectory, its adjoint, the annotation of examples along it, and distillation."""
