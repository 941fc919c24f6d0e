"""What the paper's ablations leave out."""

# Specialised normalisation, weight alteration, temporal distillation (of the objective, not of the
# network), weight sharing. Here, so that a recipe is checked without PyTorch.
ABLATIONS = ("sn", "wa", "td", "ws")
