"""The composition root: a configuration becomes parts, and the parts a run."""
