"""The faces that stand in a browser. They listen on this machine only and need no network."""
