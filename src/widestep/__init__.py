"""widestep: one optimizer step, very wide.

Data-parallel training of image classifiers with large global mini-batches. A `Recipe` decides the trained weights, an
`Execution` says where and how fast; W virtual workers give the same bytes on any number of processes. Importing this
package imports neither torch nor any other heavy library.
"""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 11):  # noqa: UP036 - whoever did not install it with pip
    raise ImportError(f"widestep {__version__} needs Python 3.11 or later. This is {sys.version.split()[0]}.")
