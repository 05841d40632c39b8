"""The science: initialization, parameterizations, objectives, labels, recipes."""
