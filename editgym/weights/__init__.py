"""Networks whose weights can be edited, restored, journalled and exported. No RL, no data, no metrics."""

from editgym.weights.export import ExportError, export_adapter, export_merged
from editgym.weights.factors import ActionLayout, DenseUpdate, LowRankFactors, Rank, Update
from editgym.weights.journal import EditJournal, Entry, JournalError, ReplaceTensors, SiteEdit
from editgym.weights.network import EditableNetwork, fingerprint
from editgym.weights.operators import Mask, Operator, Shift
from editgym.weights.sites import EditSite, UnknownSiteError, discover_sites, editable_sites, find_sites

__all__ = [
    "ActionLayout", "DenseUpdate", "EditJournal", "EditSite", "EditableNetwork", "Entry", "ExportError",
    "JournalError", "LowRankFactors", "Mask", "Operator", "Rank", "ReplaceTensors", "Shift", "SiteEdit",
    "UnknownSiteError", "Update", "discover_sites", "editable_sites", "export_adapter", "export_merged",
    "find_sites", "fingerprint",
]
