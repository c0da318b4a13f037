"""Attention backends: plain matrix products, cuDNN on NVIDIA GPUs and splash attention on TPUs."""
