"""What `experiments.doctor` looks at in a store."""
