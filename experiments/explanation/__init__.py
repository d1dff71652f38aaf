"""What explain.py tells of an emotion network: its AUs before and after it learnt emotions (Masur et al. 2023)."""
