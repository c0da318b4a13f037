"""What happens around the training steps. When it happens is `every.Every`."""
