"""What several papers use: backbones, heads, losses, metrics, weights of other runs."""
