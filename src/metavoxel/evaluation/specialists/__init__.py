"""Networks that answer one question each, as the paper's Table 1 compares with (section 4)."""
