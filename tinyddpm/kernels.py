"""The kernels, in a clone: makes the folder kernels beside this package tinyddpm.kernels.

An installed package has that folder inside it, as tinyddpm/kernels, and not this file.
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).parents[1] / "kernels")]
