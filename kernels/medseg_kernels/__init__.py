"""The ops of medseg's models: tensors in, tensors out, nothing but torch (and later triton) imported."""

from medseg_kernels.attention import attention
from medseg_kernels.cubic_attention import cubic_window_attention
from medseg_kernels.relpos_attention import relpos_attention
from medseg_kernels.spatial_adapter import spatial_adapter

__all__ = ["attention", "cubic_window_attention", "relpos_attention", "spatial_adapter"]
