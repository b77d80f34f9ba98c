"""What configurations know of blocks: read without torch."""

ACTIVATION_NAMES = ("silu", "swish", "gelu", "mish", "relu")  # as checkpoints name them
TEXT_NORM_GROUPS = 32  # of JointAttention.norm_cross, in every checkpoint
