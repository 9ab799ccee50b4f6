"""Which trick helps your object detector, by how much, and is the difference real?"""

__version__ = "0.1.0"
