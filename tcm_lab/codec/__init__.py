"""Configuration, assembly, coding to real bytes, and checkpoints of codecs."""

from tcm_lab.codec.config import EntropyModelConfig, StageConfig, TransformConfig, VariantConfig
from tcm_lab.codec.model import Codec, part_costs, padded_size
from tcm_lab.codec.presets import build, list_models, load_config
from tcm_lab.codec.peers import build_peer
