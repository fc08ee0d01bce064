"""Stage `regions`: from feature maps to one vector per region, whitened."""

from ._aggregation import global_descriptors as global_descriptors
from ._em import Covariance as Covariance
from ._em import Mixture as Mixture
from ._em import improve_mixture as improve_mixture
from ._grid import rmac_grid as rmac_grid
from ._mixture import fit_mixture as fit_mixture
from ._pooling import RegionBoxes as RegionBoxes
from ._pooling import l2_normalize as l2_normalize
from ._pooling import max_pool_regions as max_pool_regions
from ._pooling import max_regions as max_regions
from ._pooling import region_boxes as region_boxes
from ._reduction import Reduced as Reduced
from ._reduction import reduce_regions as reduce_regions
from ._whitening import fit_pca_whitening as fit_pca_whitening
from ._whitening import whiten as whiten
