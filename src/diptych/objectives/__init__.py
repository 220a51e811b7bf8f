"""Losses as pure functions of tensors. What needs the global batch is handed a `gather`."""
