"""What watches a run: the predictions ledger, tracking, figures."""
