"""Interoperability: one view of the parameters of every kind of checkpoint, and Hugging Face weights in and out."""
