"""What a mask covers: area, box, centroid, colour, direction."""

from pixelis_fast.kernels.region.op import RegionProperties, region_properties

__all__ = ["RegionProperties", "region_properties"]
