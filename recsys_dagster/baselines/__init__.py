"""Models to compare with, one readable file each."""
