"""`detcli profile`: what a recipe costs, and where its time goes."""
