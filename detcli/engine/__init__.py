"""Training, evaluation and prediction: the only part that knows a recipe and all the others."""
