"""Which tricks pay: one training run per trick and seed, compared with a baseline."""
