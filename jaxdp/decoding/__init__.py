"""Text generation with a KV cache: sampling and beam search."""
