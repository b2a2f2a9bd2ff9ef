"""What the fuzz of the readers breaks, and how."""
