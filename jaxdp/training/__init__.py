"""Lifecycle of a training run: setup, pre-flight checks, session, resume and rollback."""
