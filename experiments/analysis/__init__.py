"""What finished runs say beyond their scores: pure functions on the columns of ledgers, and on networks."""
