"""Sites, updates and entries are shared between networks and journals, so nobody may change one."""

import pytest

from editgym import weights
from editgym.weights.site_pass import Injection
from editgym.weights.splitting import SplitNetwork


@pytest.mark.parametrize(
    "record",
    [
        weights.ActionLayout,
        weights.Codebook,
        weights.DenseUpdate,
        weights.EditSite,
        Injection,
        weights.LowRankFactors,
        weights.Mask,
        weights.Prepend,
        weights.ReplaceTensors,
        weights.Shift,
        weights.SiteEdit,
        SplitNetwork,
        weights.TokenBatch,
    ],
)
def test_records_cannot_be_changed(record):
    assert record.__dataclass_params__.frozen
