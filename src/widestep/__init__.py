"""widestep: one optimizer step, very wide.

Data-parallel training of image classifiers with large global mini-batches. A `Recipe` decides the trained weights, an
`Execution` says where and how fast; W virtual workers give the same bytes on any number of processes. Importing this
package imports neither torch nor any other heavy library.
"""

__version__ = "0.1.0"
