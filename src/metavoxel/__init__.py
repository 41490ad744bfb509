"""Joint diffusion modelling of medical images and clinical data."""
