"""The first import of a benchmark run as a script: modules are found from the repository's root.

Python puts the script's own folder first on the path. In place of bench/, whose kernels.py would
hide the package of that name that transformers looks for, this puts the root.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])
