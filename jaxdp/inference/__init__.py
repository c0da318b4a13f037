"""Inference with a trained model: evaluate, generate and predict from a work directory or a checkpoint."""
