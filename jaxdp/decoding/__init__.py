"""Generating text with a KV cache: drawn token by token, or searched for with beams."""
