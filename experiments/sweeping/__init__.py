"""Sweeps: what a W&B sweep file asks for (`plan`), and where its trials run (`local`, `slurm`, `agents`)."""
