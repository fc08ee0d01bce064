"""Stage `regions`: from feature maps to one vector per region, whitened."""

from diffjax.regions._aggregation import global_descriptors as global_descriptors
from diffjax.regions._grid import rmac_grid as rmac_grid
from diffjax.regions._pooling import RegionBoxes as RegionBoxes
from diffjax.regions._pooling import l2_normalize as l2_normalize
from diffjax.regions._pooling import max_pool_regions as max_pool_regions
from diffjax.regions._pooling import max_regions as max_regions
from diffjax.regions._pooling import region_boxes as region_boxes
from diffjax.regions._whitening import Whitening as Whitening
from diffjax.regions._whitening import fit_pca_whitening as fit_pca_whitening
from diffjax.regions._whitening import whiten as whiten
