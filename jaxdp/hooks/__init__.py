"""Hooks around the training steps: logging, evaluation, checkpointing, stopping. `every.Every` is their trigger."""
