"""Networks that tasks edit, how they are trained, and the weights that ship with the package."""
