"""rainfs: a file system striped with parity over many ordinary machines.

See ARCHITECTURE.md beside this file for the layers and the way of a byte.
"""

__version__ = "0.1.0"
