"""One Gaussian of images and scalars, which the network corrects."""
