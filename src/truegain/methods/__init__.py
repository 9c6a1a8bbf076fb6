"""What the papers add: plain functions on tensors, by room."""
