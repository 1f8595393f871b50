"""The sync as others see it: health and metrics."""
