"""Building blocks of networks: convolutions and norms."""
