"""How good generated images are as a set: nearness to real ones, and variety."""
