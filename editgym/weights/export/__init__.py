"""Take edits out of editgym: as a PEFT LoRA adapter, or as a merged checkpoint."""

from editgym.weights.export.adapter import export_adapter
from editgym.weights.export.merged import ExportError, export_merged, export_pretrained

__all__ = ["ExportError", "export_adapter", "export_merged", "export_pretrained"]
