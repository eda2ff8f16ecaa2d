"""Networks whose weights can be edited, restored, journalled and exported. No RL, no data, no
metrics.
"""

from editgym.weights.classifiers.kept import Keep
from editgym.weights.classifiers.network import EditableNetwork, full_precision
from editgym.weights.export import ExportError, export_adapter, export_merged, export_pretrained
from editgym.weights.factors import (
    ActionLayout,
    DenseUpdate,
    LowRankFactors,
    Origin,
    Rank,
    Update,
)
from editgym.weights.journal import (
    Codebook,
    DiskJournal,
    EditJournal,
    Entry,
    JournalError,
    Prepend,
    Remember,
    ReplaceTensors,
    SiteEdit,
    Skip,
)
from editgym.weights.language.decoder import EditableDecoder
from editgym.weights.language.tokens import TokenBatch
from editgym.weights.operators import Mask, Operator, Shift
from editgym.weights.overlay import EditedWeights
from editgym.weights.sites import (
    EditSite,
    UnknownSiteError,
    discover_sites,
    editable_sites,
    find_sites,
)
from editgym.weights.stored import fingerprint

__all__ = [
    "ActionLayout",
    "Codebook",
    "DenseUpdate",
    "DiskJournal",
    "EditJournal",
    "EditSite",
    "EditableDecoder",
    "EditableNetwork",
    "EditedWeights",
    "Entry",
    "ExportError",
    "JournalError",
    "Keep",
    "LowRankFactors",
    "Mask",
    "Operator",
    "Origin",
    "Prepend",
    "Rank",
    "Remember",
    "ReplaceTensors",
    "Shift",
    "SiteEdit",
    "Skip",
    "TokenBatch",
    "UnknownSiteError",
    "Update",
    "discover_sites",
    "editable_sites",
    "export_adapter",
    "export_merged",
    "export_pretrained",
    "find_sites",
    "fingerprint",
    "full_precision",
]
