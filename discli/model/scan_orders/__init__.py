"""In which order scans visit the patches; everywhere else patches are in raster order.

One file each. An order takes no tensors, so the Spec is all there is to one; `discli.model.order` makes
permutations of its walks.
"""
