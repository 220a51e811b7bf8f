"""Two towers and a contrastive loss."""
