"""AUNet, Proceedings of the IEEE 2023."""
