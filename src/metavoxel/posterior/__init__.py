"""The joint distribution of all scalars: a prior, the evidence of the images, and Bayes' rule."""
