"""Networks, each one file that reads top to bottom like the paper's figure."""
