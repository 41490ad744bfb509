"""From a raw scan to a brain in template space, with a declaration of how it was made."""
