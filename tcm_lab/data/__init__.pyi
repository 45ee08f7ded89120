from .crops import Batches as Batches
from .crops import CropSource as CropSource
from .crops import prefetch as prefetch
from .dead_leaves import paint_dead_leaves as paint_dead_leaves
from .images import ImageSet as ImageSet
from .images import Purpose as Purpose
from .images import open_images as open_images
