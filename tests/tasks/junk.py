"""Whatever a caller may give by mistake."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

_things = [
    *(torch.zeros(2), torch.tensor(3), torch.zeros(1, 3, 4, dtype=torch.long), torch.full((1, 2, 128), torch.nan)),
    *(np.zeros(2), np.array("a"), np.float32("nan"), np.int64(3), np.array([3, 2]), np.zeros((2, 2), complex)),
    *(Image.new("L", (2, 2)), torch.Generator(), object(), ..., {1, 2}, range(3), 3 + 1j),
]
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
    | st.binary(max_size=4)
    | st.sampled_from(_things),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)
